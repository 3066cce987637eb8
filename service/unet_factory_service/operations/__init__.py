"""For operators and their probes: health, metrics, deliveries."""
