"""The crops of a batch at a second spacing: what a coarser acquisition of the very same crops would show."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor
from torch.nn import functional

from unet_factory.domain.manifest import divisors_of
from unet_factory.domain.spacing import SnappedSpacing, SpacingGrid, resampled_shape
from unet_factory.model.preprocessing import intensity_scale, resample, resample_labels
from unet_factory_training.batch import Batch
from unet_factory_training.config import TrainingConfig
from unet_factory_training.datasets import LabelledScan


def with_coarser_view(
    batch: Batch, scans: Sequence[LabelledScan], config: TrainingConfig, generator: Generator
) -> Batch:
    """The batch together with its crops at a coarser spacing, drawn here.

    The crops are resampled as scans are when an acquisition is simulated, so both views show the same anatomy in the
    same places, augmented in the same way. Behind their far ends, zeros fill up what the network for the coarser
    spacing wants, as in inference.

    Args:
        scans: those of the batch, z-scored at its spacing; they tell how much their contrast falls at the coarser one.

    Raises:
        NoContrast: at the coarser spacing all voxels of a scan are alike.
    """
    fine_mm, coarser = batch.spacing.mm, _draw_coarser(batch.spacing, config, generator)
    spreads = [intensity_scale(resample(scan.image, scan.spacing_ras_mm, coarser.mm))[1] for scan in scans]
    images = resample(batch.images, fine_mm, coarser.mm) / torch.stack(spreads)[:, None, None, None, None]
    classes = config.architecture.classes
    labels = [resample_labels(labels[0], classes, fine_mm, coarser.mm) for labels in batch.labels]
    padding = _padding(images.shape[2:], coarser, config)
    return replace(
        batch,
        coarser=replace(
            batch,
            images=functional.pad(images, padding),
            labels=functional.pad(torch.stack(labels)[:, None].long(), padding),
            spacing=coarser,
        ),
    )


def without_padding(found: Tensor, batch: Batch) -> Tensor:
    """What lies within the crops, of values (batch, \\*, r, a, s) on the grid of the batch's coarser view."""
    assert batch.coarser is not None
    r, a, s = resampled_shape(batch.images.shape[2:], batch.spacing.mm, batch.coarser.spacing.mm)
    return found[..., :r, :a, :s]


def _draw_coarser(spacing: SnappedSpacing, config: TrainingConfig, generator: Generator) -> SnappedSpacing:
    """Uniform in the logarithm of each axis, from ``spacing`` to the coarse end of the trained range.

    The thickness of slices, which a network of two dimensions is not told, stays.
    """
    grid: SpacingGrid = config.grid
    fine_mm = torch.tensor(spacing.mm)
    position = torch.rand(3, generator=generator)
    position[config.architecture.dimensions :] = 0
    highest_mm = torch.tensor([high for _, high in grid.range_mm])
    return grid.clamp(grid.snap((fine_mm * (highest_mm / fine_mm) ** position).tolist()))


def _padding(extents: Sequence[int], spacing: SnappedSpacing, config: TrainingConfig) -> list[int]:
    """As ``torch.nn.functional.pad`` wants it: up to multiples of the network's divisors, two of them or more along
    each axis where the largest crop has as many, because instance norm wants more than one voxel at the coarsest level.
    """
    divisors, largest = divisors_of(config.architecture.strides(spacing)), config.batch.max_patch
    missing = [
        max(-(-extent // divisor), min(2, limit // divisor)) * divisor - extent
        for extent, divisor, limit in zip(extents, divisors, largest, strict=True)
    ]
    return [width for end in reversed(missing) for width in (0, end)]
