"""Segmentations: from an upload to a job and its results."""
