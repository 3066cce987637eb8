"""Labelled scans on disk, as their owners lay them out: found by split, read in RAS+, labels as classes."""

from unet_factory_training.datasets.layouts import find_subjects
from unet_factory_training.datasets.reading import LabelledScan, read_scan, read_split
from unet_factory_training.datasets.subject import Split, Subject

__all__ = ["LabelledScan", "Split", "Subject", "find_subjects", "read_scan", "read_split"]
