"""What a volume goes through before a network sees it: another voxel spacing where one is wanted, then z-scoring.

Changing the spacing is linear interpolation, anti-aliased when coarsening, with the centre kept in place. The same
operator simulates a coarser acquisition in training and evaluation, and serves a coarser or clamped working spacing in
production, so the networks meet in production what they were trained on.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from unet_factory.domain.errors import NoContrast
from unet_factory.domain.spacing import resampled_shape

FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))

_CACHED_OPERATORS = 256  # a megabyte each at 512 voxels: a worker that sees ever new grids must not keep them all


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
    for axis, extent in enumerate(shape or resampled_shape(extents, spacing_mm, target_mm)):
        if extent == extents[axis] and spacing_mm[axis] == target_mm[axis]:
            continue
        operator = _sampling_matrix(extents[axis], extent, target_mm[axis] / spacing_mm[axis]).to(volume)
        operator = operator @ smoothing_matrix(extents[axis], target_mm[axis] / spacing_mm[axis]).to(volume)
        volume = torch.tensordot(volume, operator, dims=([volume.dim() - 3 + axis], [1])).movedim(-1, axis - 3)
    return volume.contiguous()


@lru_cache(maxsize=_CACHED_OPERATORS)
def smoothing_matrix(extent: int, ratio: float) -> Tensor:
    """(extent, extent): Gaussian slice profile that a voxel ``ratio`` times as large adds; identity for ``ratio`` <= 1.

    The full width at half maximum of the coarser voxel's profile is the voxel; the finer voxel already contributed its
    own, and variances add. Rows sum to one.
    """
    if ratio <= 1:
        return torch.eye(extent)
    sigma_voxels = math.sqrt(ratio**2 - 1) / FWHM_PER_SIGMA
    index = torch.arange(extent, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((index[:, None] - index[None, :]) / sigma_voxels) ** 2)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


@lru_cache(maxsize=_CACHED_OPERATORS)
def _sampling_matrix(extent_in: int, extent_out: int, ratio: float) -> Tensor:
    """(extent_out, extent_in): linear interpolation at steps of ``ratio`` voxels around the common centre, clamped."""
    index = torch.arange(extent_out, dtype=torch.float64)
    position = ((index - (extent_out - 1) / 2) * ratio + (extent_in - 1) / 2).clamp(0, extent_in - 1)
    distance = (position[:, None] - torch.arange(extent_in, dtype=torch.float64)[None, :]).abs()
    return (1 - distance).clamp(min=0).float()


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
    return (volume - mean) / spread


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
