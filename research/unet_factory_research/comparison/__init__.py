"""Methods against each other on one data set: equal networks, equal budgets, equal scans (paper, section 4)."""
