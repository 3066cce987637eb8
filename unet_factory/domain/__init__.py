"""What the system speaks of: errors, spacings, manifests, jobs. No I/O, no torch, no Redis."""
