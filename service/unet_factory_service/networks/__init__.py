"""Models and their standalone networks."""
