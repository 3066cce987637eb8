"""Comparisons of methods and analyses of checkpoints; not part of the product's wheel."""
