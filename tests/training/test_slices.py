"""Networks of two dimensions (paper section 3.1, r in R^2): trained on real slices, used on slices and on volumes."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from tests.fixtures.project import HIPPOCAMPUS
from unet_factory.domain.errors import SpacingInvalid
from unet_factory.domain.manifest import Architecture, HypernetworkShape, Label
from unet_factory.domain.spacing import SnappedSpacing, parse_spacing
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
from unet_factory_training.batches import SpacingBatches
from unet_factory_training.config import BatchConfig, OptimisationConfig, TrainingConfig
from unet_factory_training.dataset_config import DatasetConfig
from unet_factory_training.datasets import read_split
from unet_factory_training.engine import start_engine
from unet_factory_training.evaluation import mean_dice, score_scans, segment_simulated, simulate
from unet_factory_training.loop import train

SPLITS = {"train": ["hippocampus_004", "hippocampus_017"], "test": ["hippocampus_034"]}


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every second labelled slice along S of the example scans, each a file of one voxel along S, 3 mm thick."""
    root, splits = tmp_path_factory.mktemp("slices"), {"train": list[str](), "validation": list[str](), "test": []}
    for split, patients in SPLITS.items():
        for patient in patients:
            image, labels = (_ras(HIPPOCAMPUS / kind / f"{patient}.nii.gz") for kind in ("images", "labels"))
            depths = np.flatnonzero(labels.sum(axis=(0, 1)) > 40)[::2]
            for depth in depths:
                name = f"{patient}_{depth}.nii.gz"
                for kind, voxels in (("images", image), ("labels", labels)):
                    (root / kind).mkdir(exist_ok=True)
                    one = nibabel.Nifti1Image(voxels[:, :, depth : depth + 1], np.diag([1.0, 1.0, 3.0, 1.0]))
                    nibabel.save(one, root / kind / name)
                splits[split].append(name)
    splits["validation"] = splits["train"][:1]
    (root / "splits.json").write_text(json.dumps(splits))
    return root


def _ras(path: Path) -> np.ndarray:
    return np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj).astype(np.float32)


@pytest.fixture(scope="module")
def config(slices: Path) -> TrainingConfig:
    return TrainingConfig(
        name="slices",
        dataset=DatasetConfig(root=str(slices), label_map={1: 1, 2: 1}),
        architecture=Architecture(dimensions=2, classes=2, channels=(8, 16, 32), blocks=1),
        hypernetwork=HypernetworkShape(hidden=(16, 4)),
        trained_range_mm=((0.75, 2), (0.75, 2), (3, 3)),
        labels=(Label(value=0, name="background"), Label(value=1, name="hippocampus")),
        licence="CC BY-SA 4.0",
        batch=BatchConfig(min_scans=4, max_scans=4, max_patch=(40, 56, 1)),
        optimisation=OptimisationConfig(
            iterations=140, warmup=5, learning_rate=1e-2, ema_decay=0.9, precision="float32"
        ),
        validate_every=140,
        loader_workers=0,
        threads=1,
    )


@pytest.fixture(scope="module")
def trained(config: TrainingConfig, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    torch.set_num_threads(1)
    return load_checkpoint(train(config, tmp_path_factory.mktemp("run"), start_engine(config, "cpu")))


def test_a_network_of_slices_learns_slices(trained: Checkpoint, config: TrainingConfig) -> None:
    """On another patient's slices, at their own spacing and at a coarser one."""
    scans = read_split(config.dataset, "test", 2)
    assert {tuple(scan.image.shape[2:]) for scan in scans} == {(1,)}
    for spacing in (None, SnappedSpacing(1500, 2000, 3000)):
        scores = score_scans(trained.hypernetwork, trained.manifest, scans, [spacing])
        assert mean_dice(scores) > 0.6, spacing


def test_only_the_spacing_within_the_slice_decides_its_weights(trained: Checkpoint) -> None:
    network = trained.hypernetwork
    thin, thick, coarse = (
        network.generate(SnappedSpacing(*um)) for um in ((1000, 1000, 1000), (1000, 1000, 9000), (2000, 1000, 1000))
    )
    assert all(torch.equal(thin[name], thick[name]) for name in thin)
    assert any(not torch.equal(thin[name], coarse[name]) for name in thin)
    assert all(tensor.dim() < 5 for tensor in thin.values())


def test_a_stack_of_slices_is_segmented_slice_by_slice(trained: Checkpoint, config: TrainingConfig) -> None:
    """A volume of three equal slices gets the slice's label map three times."""
    scan = read_split(config.dataset, "test", 2)[0]
    one = simulate(scan, scan.spacing_ras_mm, 2)
    single = segment_simulated(trained.hypernetwork, trained.manifest, one)
    stack = type(one)(one.image.repeat(1, 1, 3), one.labels.repeat(1, 1, 3), one.spacing_mm)
    assert torch.equal(segment_simulated(trained.hypernetwork, trained.manifest, stack), single.repeat(1, 1, 3))


def test_augmentation_does_not_leave_a_slice(config: TrainingConfig) -> None:
    """Shifts and turns out of the plane would find nothing there."""
    scans = read_split(config.dataset, "train", 2)
    for number in range(10):
        batch = SpacingBatches(scans, config)[number]
        assert batch.images.shape[-1] == 1
        assert (batch.images.std(dim=(1, 2, 3, 4)) > 0.3).all()
        assert (batch.labels.sum(dim=(1, 2, 3, 4)) > 0).float().mean() > 0.8


def test_a_spacing_of_two_numbers_is_told_what_is_missing() -> None:
    with pytest.raises(SpacingInvalid, match=r"three numbers .* not 2: .*for a slice, S is its thickness"):
        parse_spacing("0.8,0.8")
