"""``unet-factory doctor``: what an installation stands on, checked part by part, with a verdict and what to do."""
