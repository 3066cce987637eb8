"""A small data set on disk: bright ellipsoids with two labels, in either layout, and a configuration to match."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from unet_factory.manifest import Architecture, HypernetworkShape, Label
from unet_factory_training.config import (
    BatchConfig,
    OptimisationConfig,
    SpacingSampling,
    TrainingConfig,
)
from unet_factory_training.dataset_config import DatasetConfig
from unet_factory_training.datasets import Scan, find_subjects, read_scan

COUNTS = {"train": 4, "validation": 1, "test": 1}


@pytest.fixture(scope="session")
def dataset_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our layout; every second scan is stored left-posterior-superior, so reading must reorient."""
    root = tmp_path_factory.mktemp("dataset")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    rng = np.random.default_rng(0)
    splits = {split: [f"{split}_{index}.nii.gz" for index in range(count)] for split, count in COUNTS.items()}
    for index, name in enumerate(name for names in splits.values() for name in names):
        image, labels = _ellipsoid(rng)
        affine = np.diag([1.0, 1.0, 1.2, 1.0])
        if index % 2:
            image, labels = image[::-1, ::-1], labels[::-1, ::-1]
            affine = np.diag([-1.0, -1.0, 1.2, 1.0])
        nibabel.save(nibabel.Nifti1Image(image, affine), root / "images" / name)
        nibabel.save(nibabel.Nifti1Image(labels, affine), root / "labels" / name)
    (root / "splits.json").write_text(json.dumps(splits))
    return root


@pytest.fixture
def config(dataset_root: Path) -> TrainingConfig:
    return TrainingConfig(
        name="ellipsoids",
        dataset=DatasetConfig(root=str(dataset_root)),
        architecture=Architecture(classes=3, channels=(4, 8), blocks=1),
        hypernetwork=HypernetworkShape(hidden=(8, 4)),
        trained_range_mm=((0.5, 3.5), (0.5, 3.5), (0.5, 3.5)),
        labels=tuple(Label(value=value, name=f"label {value}") for value in range(3)),
        licence="CC0-1.0",
        sampling=SpacingSampling(uniform=0.5, log_uniform=0.25, native=0.25),
        batch=BatchConfig(min_scans=2, max_scans=3, voxels=8000, max_patch=(16, 16, 16)),
        optimisation=OptimisationConfig(iterations=30, warmup=2, ema_decay=0.9),
        validate_every=30,
        save_every=5,
        loader_workers=0,
        threads=1,
    )


@pytest.fixture
def scans(config: TrainingConfig) -> list[Scan]:
    return [read_scan(subject, config.dataset) for subject in find_subjects(config.dataset, "train")]


def _ellipsoid(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    shape = rng.integers(18, 24, size=3)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    inside = (grid**2 / rng.uniform(0.2, 0.5, size=(3, 1, 1, 1))).sum(axis=0) < 1
    labels = np.where(inside, np.where(grid[1] > 0, 1, 2), 0).astype(np.uint8)
    image = (rng.normal(size=tuple(shape)) * 0.2 + labels).astype(np.float32)
    return image, labels
