"""The same crops at two spacings: what the second view shows, and that it changes nothing about the first."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.fixtures.training_data import STILL
from unet_factory.domain.manifest import Architecture, divisors_of
from unet_factory.model.preprocessing import resample, resample_labels, zscore
from unet_factory_training.batch import Batch
from unet_factory_training.batches import SpacingBatches
from unet_factory_training.coarser_view import without_padding
from unet_factory_training.config import SpacingSampling, TrainingConfig
from unet_factory_training.datasets import LabelledScan


def two_views(config: TrainingConfig, **fields: Any) -> TrainingConfig:
    sampling = config.sampling.model_copy(update={"views": 2})
    return config.model_copy(update={"sampling": sampling, **fields})


def coarser(batch: Batch) -> Batch:
    assert batch.coarser is not None
    return batch.coarser


def test_a_second_view_depends_on_seed_and_iteration_only_and_leaves_the_first_alone(
    scans: list[LabelledScan], config: TrainingConfig
) -> None:
    one, two = SpacingBatches(scans, config), SpacingBatches(scans, two_views(config))
    for iteration in (3, 11):
        torch.manual_seed(iteration)
        batch, again, alone = two[iteration], two[iteration], one[iteration]
        assert alone.views == (alone,)
        assert (batch.names, batch.spacing) == (alone.names, alone.spacing)
        assert torch.equal(batch.images, alone.images)
        assert torch.equal(batch.labels, alone.labels)
        assert coarser(batch).spacing == coarser(again).spacing
        assert torch.equal(coarser(batch).images, coarser(again).images)


def test_a_second_view_is_coarser_within_the_range_and_fits_its_network(
    scans: list[LabelledScan], config: TrainingConfig
) -> None:
    two, spacings = two_views(config), set()
    for batch in (SpacingBatches(scans, two)[iteration] for iteration in range(20)):
        second = coarser(batch)
        spacings.add(second.spacing)
        assert config.grid.contains(second.spacing)
        assert all(coarse >= fine for coarse, fine in zip(second.spacing, batch.spacing, strict=True))
        divisors = divisors_of(config.architecture.strides(second.spacing))
        assert all(
            extent % divisor == 0 and extent >= 2 * divisor
            for extent, divisor in zip(second.images.shape[2:], divisors, strict=True)
        )
        assert second.labels.shape == second.images.shape
        assert second.labels.dtype == torch.int64
        assert second.names == batch.names
    assert len(spacings) > 15


def test_a_second_view_is_the_first_resampled(scans: list[LabelledScan], config: TrainingConfig) -> None:
    """Up to how much its contrast is stretched; zeros lie behind its far ends."""
    batch = SpacingBatches(scans, two_views(config))[4]
    second = coarser(batch)
    assert second.spacing != batch.spacing
    inside = without_padding(second.images, batch)
    for first, found in zip(batch.images[:, 0], inside[:, 0], strict=True):
        expected = resample(first, batch.spacing.mm, second.spacing.mm)
        assert found.shape == expected.shape
        stretched = float((found * expected).sum() / expected.square().sum())
        assert 1 <= stretched < 3, "a coarser scan has less contrast, which z-scoring stretches"
        torch.testing.assert_close(found, stretched * expected, rtol=1e-4, atol=1e-5)
    for first, found in zip(batch.labels[:, 0], without_padding(second.labels, batch)[:, 0], strict=True):
        assert torch.equal(found, resample_labels(first, 3, batch.spacing.mm, second.spacing.mm).long())
    r, a, s = inside.shape[2:]
    for values in (second.images, second.labels):
        beyond = values.clone()
        beyond[..., :r, :a, :s] = 0
        assert not beyond.any()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_whole_scan_in_a_second_view_is_scaled_as_inference_scales_it(
    scans: list[LabelledScan], config: TrainingConfig, seed: int
) -> None:
    scan = scans[0]
    cube = replace(scan, image=100 * scan.image[:16, :16, :16] + 700, labels=scan.labels[:16, :16, :16])
    bounds = config.batch.model_copy(update={"min_scans": 1, "max_scans": 1})
    native = two_views(config, augmentation=STILL, batch=bounds, seed=seed)
    native = native.model_copy(update={"sampling": SpacingSampling(uniform=0, native=1, views=2)})
    batch = SpacingBatches([cube], native)[0]
    second = coarser(batch)
    expected = zscore(resample(cube.image, cube.spacing_ras_mm, second.spacing.mm))
    difference = without_padding(second.images, batch)[0, 0] - expected
    assert float(difference.square().mean().sqrt()) < 0.1


def test_the_thickness_of_slices_stays(scans: list[LabelledScan], config: TrainingConfig) -> None:
    flat = Architecture(classes=3, channels=(4, 8), blocks=1, dimensions=2)
    bounds = config.batch.model_copy(update={"max_patch": (16, 16, 1)})
    slices = [replace(scan, image=scan.image[..., 8:9], labels=scan.labels[..., 8:9]) for scan in scans]
    for iteration in range(5):
        batch = SpacingBatches(slices, two_views(config, architecture=flat, batch=bounds))[iteration]
        assert coarser(batch).spacing.s_um == batch.spacing.s_um
        assert coarser(batch).images.shape[-1] == 1


def test_what_needs_two_views_says_so(config: TrainingConfig) -> None:
    values = config.model_dump()
    with pytest.raises(ValidationError, match=r"consistency_weight is 0\.5, but sampling\.views is 1; set views to 2"):
        TrainingConfig.model_validate({**values, "optimisation": {**values["optimisation"], "consistency_weight": 0.5}})
    compiled = {"optimisation": {**values["optimisation"], "execution": "compiled"}}
    with pytest.raises(ValidationError, match="CUDA graphs keep only the last"):
        TrainingConfig.model_validate({**values, **compiled, "sampling": {**values["sampling"], "views": 2}})
