"""What a volume goes through before a network sees it: another voxel spacing where one is wanted, then z-scoring.

Changing the spacing is linear interpolation, anti-aliased when coarsening, with the centre kept in place. The same
operator simulates a coarser acquisition in training and evaluation, and serves a coarser or clamped working spacing in
production, so the networks meet in production what they were trained on.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unet_factory.domain.errors import NoContrast
from unet_factory.domain.spacing import resampled_shape
from unet_factory.model.sampling import AxisSampling


def resample(
    volume: Tensor, spacing_mm: Sequence[float], target_mm: Sequence[float], shape: Sequence[int] | None = None
) -> Tensor:
    """Resample the last three axes from ``spacing_mm`` to ``target_mm``; linear, so one-hot maps still sum to one.

    Args:
        volume: (*, r, a, s), floating point.
        spacing_mm: spacing of ``volume`` per axis.
        target_mm: spacing of the result per axis.
        shape: extents of the result; by default those that keep the field of view.

    Returns:
        (*, r', a', s'), the centre of the field of view where it was.
    """
    extents = volume.shape[-3:]
    targets = shape or resampled_shape(extents, spacing_mm, target_mm)
    samplings = [AxisSampling.of(*axis) for axis in zip(extents, targets, spacing_mm, target_mm, strict=True)]
    r, a, s = (slice(*each.samples_of(0, each.results)) for each in samplings)
    return sampled(volume[..., r, a, s], samplings, [(0, target) for target in targets])


def sampled(volume: Tensor, samplings: Sequence[AxisSampling], results: Sequence[tuple[int, int]]) -> Tensor:
    """A part of the result of :func:`resample`: from the first to the end of ``results`` along each axis.

    Args:
        volume: (*, r, a, s), of each axis just the samples that these results depend on.
    """
    # first the axis that shrinks most, or grows least, and then the one whose neighbours lie closest in memory
    growth = [(stop - start) / extent for (start, stop), extent in zip(results, volume.shape[-3:], strict=True)]
    for axis in sorted(range(3), key=lambda axis: (growth[axis], -axis)):
        volume = samplings[axis].apply(volume, volume.dim() - 3 + axis, *results[axis])
    return volume.contiguous()


def resample_labels(
    labels: Tensor,
    classes: int,
    spacing_mm: Sequence[float],
    target_mm: Sequence[float],
    shape: Sequence[int] | None = None,
) -> Tensor:
    """Resample a label map as one-hot maps and take the largest.

    Args:
        labels: (r, a, s), integer values below ``classes``.

    Returns:
        (r', a', s') uint8.
    """
    one_hot = torch.stack([labels == value for value in range(classes)]).float()
    return resample(one_hot, spacing_mm, target_mm, shape).argmax(dim=0).to(torch.uint8)


def zscore(volume: Tensor) -> Tensor:
    """(r, a, s) -> the same with zero mean and unit variance over all voxels.

    Raises:
        NoContrast: as :func:`intensity_scale`.
    """
    volume = volume.float()
    mean, spread = intensity_scale(volume)
    return (volume - mean).div_(spread)


def intensity_scale(volume: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of all voxels of a float32 volume (r, a, s).

    Raises:
        NoContrast: the voxels are all alike, or their spread is beyond float32. Such a scan would become all zeros,
            and a network sees anatomy even there.
    """
    mean, spread = volume.mean(), volume.std(correction=0)
    low, high = float(volume.min()), float(volume.max())
    if low == high or not torch.isfinite(spread):
        raise NoContrast(f"the intensities, {low:g} to {high:g}, must differ, and by no more than float32 can hold")
    return mean, spread
