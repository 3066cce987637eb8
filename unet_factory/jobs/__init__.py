"""A job's life in Redis: records, leases, deliveries and what keeps promises while nobody asks."""
