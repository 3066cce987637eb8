"""Batches: a pure function of seed and iteration, one spacing each, image and labels in step."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from tests.fixtures.training_data import STILL
from unet_factory.domain.manifest import divisors_of
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.preprocessing import resample, resample_labels, zscore
from unet_factory_training.batches import SpacingBatches, draw_patch, draw_spacing
from unet_factory_training.config import SpacingSampling, TrainingConfig
from unet_factory_training.datasets import LabelledScan
from unet_factory_training.evaluation import simulate


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


def whole_in_one_crop(
    scan: LabelledScan, config: TrainingConfig, mm: tuple[float, float, float], **sampling: Any
) -> tuple[LabelledScan, torch.Tensor]:
    """A scan of 16 voxels along each axis, and the only image of a batch of it at ``mm``, not augmented."""
    cube = replace(scan, image=scan.image[:16, :16, :16].clone(), labels=scan.labels[:16, :16, :16].clone())
    bounds = config.batch.model_copy(update={"max_patch": (16, 16, 16), "min_scans": 1, "max_scans": 1})
    drawn = {"trained_range_mm": tuple((value, value) for value in mm), "sampling": SpacingSampling(**sampling)}
    fixed = config.model_copy(update={"augmentation": STILL, "batch": bounds, **drawn})
    return cube, SpacingBatches([cube], fixed)[0].images[0, 0]


def root_mean_square(difference: torch.Tensor) -> float:
    """Without the outermost voxels, where scan and padding meet."""
    return float(difference[1:-1, 1:-1, 1:-1].square().mean().sqrt())


@pytest.mark.parametrize("mm", [(1.0, 1.0, 1.2), (2.0, 2.0, 2.4), (1.0, 2.0, 4.8)])
def test_training_scales_a_scan_as_inference_does(
    scans: list[LabelledScan], config: TrainingConfig, mm: tuple[float, float, float]
) -> None:
    """A batch that holds a whole scan, native or coarser, holds what the network is given in use."""
    scan, seen = whole_in_one_crop(replace(scans[0], image=100 * scans[0].image + 700), config, mm)
    wanted = zscore(resample(scan.image, scan.spacing_ras_mm, mm))
    if mm == scan.spacing_ras_mm:
        torch.testing.assert_close(seen, wanted, rtol=0, atol=1e-4)
    assert root_mean_square(seen - wanted) < 0.1


def test_harmonised_scans_are_degraded_before_they_reach_the_batchs_spacing(
    scans: list[LabelledScan], config: TrainingConfig
) -> None:
    """Acquired at 4 mm in plane and brought to 1 mm: what inference makes of such a scan, not one of 1 mm."""
    native, coarse = (1.0, 1.0, 1.2), (4.0, 4.0, 1.2)
    scan, seen = whole_in_one_crop(scans[0], config, native, acquired_mm=tuple((mm, mm) for mm in coarse))
    acquired = simulate(scan, coarse, 3)
    wanted = zscore(resample(acquired.image, coarse, native))
    assert root_mean_square(seen - wanted) < 0.02
    assert root_mean_square(seen - zscore(scan.image)) > 0.2


def test_each_harmonised_scan_has_a_spacing_of_its_own(scans: list[LabelledScan], config: TrainingConfig) -> None:
    """Six copies of one scan at one place differ only in how coarsely they were acquired."""
    bounds = config.batch.model_copy(update={"min_scans": 6, "max_scans": 6, "max_patch": (24, 24, 24)})
    still = {"augmentation": STILL, "batch": bounds, "trained_range_mm": ((1, 1), (1, 1), (1.2, 1.2))}
    sampling = SpacingSampling(acquired_mm=((0.5, 3.5), (0.5, 3.5), (0.5, 3.5)))
    batch = SpacingBatches([scans[0]] * 6, config.model_copy(update={**still, "sampling": sampling}))[0]
    roughness = {round(float(image.diff(dim=1).square().mean()), 3) for image in batch.images}
    assert len(roughness) == 6


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


def test_a_fixed_network_is_validated_where_its_scans_come_from(config: TrainingConfig) -> None:
    """Harmonised scans come from the whole range, though the network knows one spacing; else both are the same."""
    fixed = config.model_copy(update={"trained_range_mm": ((1, 1), (1, 1), (1.2, 1.2))})
    assert fixed.acquired_grid == fixed.grid
    harmonised = fixed.model_copy(update={"sampling": SpacingSampling(acquired_mm=config.trained_range_mm)})
    assert harmonised.acquired_grid == config.grid
    assert harmonised.grid == fixed.grid
