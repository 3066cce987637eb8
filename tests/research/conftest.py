"""The small data set of the tests."""

from tests.fixtures.training_data import config, dataset_root, scans

__all__ = ["config", "dataset_root", "scans"]
