"""What training and validation saw is computed from them alone, and written without a change to the weights."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unet_factory.domain.errors import DatasetInvalid
from unet_factory.model.checkpoint import load_checkpoint, save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.platform.manifest_file import read_manifest
from unet_factory_training.config import TrainingConfig
from unet_factory_training.datasets import LabelledScan
from unet_factory_training.engine import start_engine
from unet_factory_training.evaluation_report import publish
from unet_factory_training.loop import manifest_of, train
from unet_factory_training.seen_scans import describe, seen_in


@pytest.fixture
def checkpoint(config: TrainingConfig, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    hypernetwork = Hypernetwork(config.architecture, config.hypernetwork, config.grid)
    save_checkpoint(tmp_path / "a.safetensors", hypernetwork, manifest_of(config), heads="float16")
    return tmp_path / "a.safetensors"


def test_volumes_and_extents_are_those_of_the_files(
    config: TrainingConfig, checkpoint: Path, dataset_root: Path, tmp_path: Path
) -> None:
    """By nibabel and NumPy alone; the test split is not among them."""
    files = [path for path in sorted((dataset_root / "labels").iterdir()) if not path.name.startswith("test")]
    images = [nibabel.Nifti1Image.from_filename(path) for path in files]
    volumes = [np.bincount(np.asarray(image.dataobj).ravel(), minlength=3)[1:] * 1.2 / 1000 for image in images]
    extents = [np.array(image.shape) * (1, 1, 1.2) for image in images]
    seen = describe(config, checkpoint, tmp_path / "b.safetensors", margin=2)
    for value, box in enumerate(seen.extents_mm.values(), start=1):
        places = [np.argwhere(np.asarray(image.dataobj) == value) for image in images]
        boxes = [(place.max(axis=0) - place.min(axis=0) + 1) * (1, 1, 1.2) for place in places]
        found = np.array([[span.low, span.median, span.high] for span in box])
        np.testing.assert_allclose(found, np.percentile(boxes, (0.5, 50, 99.5), axis=0).T, atol=1e-4)
    assert list(seen.extents_mm) == ["label 1", "label 2"]
    assert read_manifest(tmp_path / "b.safetensors").seen == seen
    assert (seen.scans, seen.margin, list(seen.volumes_ml)) == (5, 2, ["label 1", "label 2"])
    for spans, expected in ((seen.volumes_ml.values(), volumes), (seen.field_of_view_mm, extents)):
        found = np.array([[span.low, span.median, span.high] for span in spans])
        np.testing.assert_allclose(found, np.percentile(expected, (0.5, 50, 99.5), axis=0).T, atol=1e-4)


def test_a_label_that_no_scan_shows_has_no_extent(config: TrainingConfig) -> None:
    """And one that some scans lack has that of the others."""
    labels = torch.zeros(6, 6, 6, dtype=torch.uint8)
    labels[1:4, 2, 3] = 1
    image = torch.linspace(-1, 1, 216).reshape(6, 6, 6)
    scans = [LabelledScan(f"{n}", image, labels * n, (1.0, 2.0, 3.0)) for n in (0, 1)]
    (name, spans), *others = seen_in(scans, config.labels).extents_mm.items()
    assert (name, [(span.low, span.high) for span in spans], others) == ("label 1", [(3, 3), (2, 2), (3, 3)], [])


def test_intensities_are_those_of_voxels_over_scans(config: TrainingConfig) -> None:
    def scan(image: torch.Tensor) -> LabelledScan:
        return LabelledScan("x", image, torch.zeros(image.shape, dtype=torch.uint8), (1, 1, 1))

    ramp = torch.linspace(0, 1, 101).reshape(101, 1, 1)
    low, middle, high = seen_in([scan(ramp), scan(2 * ramp), scan(3 * ramp)], config.labels).intensities
    assert [low.median, middle.median, high.median] == pytest.approx([0.02, 1, 1.98])
    assert [middle.low, middle.high] == pytest.approx([0.505, 1.495])


def test_the_weights_stay_bit_for_bit_and_it_can_be_done_again(config: TrainingConfig, checkpoint: Path) -> None:
    before, manifest = load_file(checkpoint), read_manifest(checkpoint)
    describe(config, checkpoint, checkpoint)
    after, once = load_file(checkpoint), checkpoint.read_bytes()
    assert {name: tensor.dtype for name, tensor in after.items()} == {name: t.dtype for name, t in before.items()}
    assert all(torch.equal(after[name].view(torch.uint8), tensor.view(torch.uint8)) for name, tensor in before.items())
    assert read_manifest(checkpoint).model_copy(update={"seen": None}) == manifest
    describe(config, checkpoint, checkpoint)
    assert checkpoint.read_bytes() == once
    load_checkpoint(checkpoint)


def test_a_checkpoint_of_other_labels_is_not_described(config: TrainingConfig, checkpoint: Path) -> None:
    other = config.labels[1].model_copy(update={"name": "elbow"})
    labels = (config.labels[0], other, config.labels[2])
    with pytest.raises(DatasetInvalid, match="has labels that differ"):
        describe(config.model_copy(update={"labels": labels}), checkpoint, checkpoint)


def test_training_describes_what_it_saw_and_publishing_keeps_it(
    config: TrainingConfig, checkpoint: Path, tmp_path: Path
) -> None:
    optimisation = config.optimisation.model_copy(update={"iterations": 1})
    config = config.model_copy(update={"optimisation": optimisation})
    trained = train(config, tmp_path / "run", start_engine(config, "cpu"))
    seen = read_manifest(trained).seen
    assert seen == describe(config, checkpoint, checkpoint)
    publish(trained, [], config, tmp_path / "published.safetensors")
    assert read_manifest(tmp_path / "published.safetensors").seen == seen
