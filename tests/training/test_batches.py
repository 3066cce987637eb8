"""Batches: a pure function of seed and iteration, one spacing each, image and labels in step."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from tests.fixtures.training_data import STILL
from unet_factory.domain.manifest import divisors_of
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.preprocessing import resample, resample_labels
from unet_factory_training.batches import SpacingBatches, draw_patch, draw_spacing
from unet_factory_training.config import SpacingSampling, TrainingConfig
from unet_factory_training.datasets import LabelledScan


def test_a_batch_depends_on_seed_and_iteration_only(scans: list[LabelledScan], config: TrainingConfig) -> None:
    batches = SpacingBatches(scans, config)
    torch.manual_seed(1)
    first = batches[7]
    torch.manual_seed(2)
    again = SpacingBatches(scans, config)[7]
    assert first.names == again.names
    assert first.spacing == again.spacing
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    other = SpacingBatches(scans, config.model_copy(update={"seed": 1}))[7]
    assert first.spacing != other.spacing or not torch.equal(first.images, other.images)


def test_batches_keep_their_bounds(scans: list[LabelledScan], config: TrainingConfig) -> None:
    bounds = config.batch
    spacings = set()
    for batch in (SpacingBatches(scans, config)[iteration] for iteration in range(30)):
        count, _, *patch = batch.images.shape
        spacings.add(batch.spacing)
        assert config.grid.contains(batch.spacing)
        assert bounds.min_scans <= count <= bounds.max_scans
        divisors = divisors_of(config.architecture.strides(batch.spacing))
        assert all(
            extent % divisor == 0 and extent <= limit
            for extent, divisor, limit in zip(patch, divisors, bounds.max_patch, strict=True)
        )
        assert batch.labels.shape == batch.images.shape
        assert torch.isfinite(batch.images).all()
        assert set(batch.labels.unique().tolist()) <= {0, 1, 2}
    assert len(spacings) > 15


def test_overshoot_trains_the_borders_of_the_range(scans: list[LabelledScan], config: TrainingConfig) -> None:
    """A share o / (1 + 2 o) of the draws at each end of each axis; without it hardly one."""
    (low, high), draws = config.grid.range_mm[0], 2000
    for overshoot, share in ((0.0, 0.01), (0.25, 1 / 6)):
        drawn_from = config.model_copy(update={"sampling": SpacingSampling(overshoot=overshoot)})
        generator = torch.Generator().manual_seed(0)
        drawn = [draw_spacing(config.grid, scans, drawn_from, generator) for _ in range(draws)]
        assert all(config.grid.contains(spacing) for spacing in drawn)
        for axis in range(3):
            for end in (low, high):
                assert sum(spacing.mm[axis] == end for spacing in drawn) / draws == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("mm", [(1.0, 1.0, 1.2), (2.0, 1.5, 3.0), (0.5, 2.0, 0.6)])
def test_without_augmentation_a_patch_is_the_resampled_scan(
    scans: list[LabelledScan], config: TrainingConfig, mm: tuple[float, float, float]
) -> None:
    """Training sees labels as evaluation and service do, up to how a field of view is rounded to voxels."""
    still = config.model_copy(update={"augmentation": STILL})
    spacing = SnappedSpacing(*(round(value * 1000) for value in mm))
    scan = scans[0]
    reference = resample_labels(scan.labels, 3, scan.spacing_ras_mm, mm)
    generator = torch.Generator().manual_seed(0)
    _, labels = draw_patch(scan, spacing, tuple(reference.shape), still, generator)
    agreement = float((labels == reference).float().mean())
    assert agreement > 0.99


@pytest.mark.parametrize("mm", [(1.0, 1.0, 1.0), (3.0, 3.0, 3.0), (1.0, 2.4, 4.0)])
def test_without_augmentation_an_image_is_what_evaluation_simulates(
    scans: list[LabelledScan], config: TrainingConfig, mm: tuple[float, float, float]
) -> None:
    """White noise, whose contrast at a coarser spacing is all the slice profile's doing: the same voxels, unscaled."""
    still = config.model_copy(update={"augmentation": STILL})
    noise = torch.randn((36, 36, 36), generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(36, 36, 36, dtype=torch.uint8)
    scan = replace(scans[0], image=noise, labels=labels, spacing_ras_mm=(1.0, 1.0, 1.0))
    expected = resample(scan.image, scan.spacing_ras_mm, mm)
    spacing = SnappedSpacing(*(round(value * 1000) for value in mm))
    image, _ = draw_patch(scan, spacing, tuple(expected.shape), still, torch.Generator().manual_seed(0))
    inner = (slice(2, -2),) * 3
    assert float((image - expected)[inner].square().mean().sqrt()) < 0.1 * float(expected[inner].std())


def test_drawn_spacings_are_distributed_as_configured(scans: list[LabelledScan], config: TrainingConfig) -> None:
    """Each axis on its own, uniform in mm or in its logarithm (Kolmogorov-Smirnov), or the scans' own."""
    low, high = config.grid.range_mm[0]
    kinds: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "uniform": lambda mm: (mm - low) / (high - low),
        "log_uniform": lambda mm: np.log(mm / low) / np.log(high / low),
    }
    for kind, to_unit in kinds.items():
        sampling = SpacingSampling.model_validate({"uniform": 0, kind: 1})
        drawn_from = config.model_copy(update={"sampling": sampling})
        generator = torch.Generator().manual_seed(0)
        drawn = np.array([draw_spacing(config.grid, scans, drawn_from, generator).mm for _ in range(1500)])
        for axis in range(3):
            assert scipy.stats.kstest(to_unit(drawn[:, axis]), "uniform").statistic < 0.05, (kind, axis)
        correlation = np.corrcoef(drawn.T)[np.triu_indices(3, 1)]
        assert np.abs(correlation).max() < 0.1, kind
    own = config.model_copy(update={"sampling": SpacingSampling(uniform=0, native=1)})
    natives = {config.grid.snap(scan.spacing_ras_mm) for scan in scans}
    assert draw_spacing(config.grid, scans, own, torch.Generator().manual_seed(0)) in natives


def test_augmentation_changes_the_image_and_keeps_the_labels(scans: list[LabelledScan], config: TrainingConfig) -> None:
    spacing = SnappedSpacing(1000, 1000, 1200)
    patch = tuple(scans[0].image.shape)
    first, second = (
        draw_patch(scans[0], spacing, patch, config, torch.Generator().manual_seed(seed)) for seed in (0, 1)
    )
    assert not torch.equal(first[0], second[0])
    for image, labels in (first, second):
        brightness = [image[labels == value].mean() for value in range(3)]
        assert brightness[0] < brightness[1] < brightness[2]


def test_crops_of_one_size_are_padded_with_zeros(scans: list[LabelledScan], config: TrainingConfig) -> None:
    batch = config.batch.model_copy(update={"max_patch": (32, 32, 48), "pad_to_max_patch": True, "max_scans": 2})
    still = config.model_copy(update={"augmentation": STILL, "batch": batch})
    drawn = [SpacingBatches(scans, still)[iteration] for iteration in range(5)]
    assert {tuple(one.images.shape) for one in drawn} == {(2, 1, 32, 32, 48)}
    coarse = [one for one in drawn if min(one.spacing.mm) > 1]
    assert coarse, "the seed draws a spacing at which a scan cannot fill the crop"
    assert all((one.images[..., 0, 0, 0] == 0).all() for one in coarse)
