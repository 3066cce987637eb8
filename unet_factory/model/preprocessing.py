"""What a volume goes through before a network sees it: another voxel spacing where one is wanted, then z-scoring.

Changing the spacing is linear interpolation, anti-aliased when coarsening, with the centre kept in place. The same
operator simulates a coarser acquisition in training and evaluation, and serves a coarser or clamped working spacing in
production, so the networks meet in production what they were trained on. Each sample of the result depends on a few
neighbours along an axis, so any part of it can be made from a part of the input: two of them where the axis is refined,
as many as the slice profile covers where it is coarsened.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Self

import torch
from torch import Tensor

from unet_factory.domain.errors import NoContrast
from unet_factory.domain.spacing import resampled_shape

FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))

_CACHED = 256  # up to a megabyte each at 512 voxels: a worker that sees ever new grids must not keep them all
_AT_ONCE = 2**15 - 1  # values made at once on a CPU: they stay in its cache, and PyTorch starts no threads for so few


@dataclass(frozen=True, eq=False)
class AxisSampling:
    """One axis at another spacing, around the common centre.

    Result ``i`` lies ``weight[i]`` of the way from sample ``lower[i]`` to ``upper[i]``.

    Where the axis is coarsened, ``matrix`` (results, samples) smooths and interpolates, and all samples from ``lower``
    to ``upper`` count. ``same``: nothing changes.
    """

    lower: Tensor
    upper: Tensor
    weight: Tensor
    matrix: Tensor | None
    same: bool

    @classmethod
    def of(cls, extent_in: int, extent_out: int, spacing_mm: float, target_mm: float) -> Self:
        """From ``extent_in`` samples ``spacing_mm`` apart to ``extent_out`` that are ``target_mm`` apart."""
        same = extent_in == extent_out and spacing_mm == target_mm
        return cls(*_sampling(extent_in, extent_out, target_mm / spacing_mm), same)

    @property
    def results(self) -> int:
        return len(self.lower)

    @property
    def widest(self) -> int:
        """The most samples that one result depends on."""
        return 1 if self.same else int((self.upper - self.lower).max()) + 1

    def samples_of(self, start: int, stop: int) -> tuple[int, int]:
        """The samples, first and end, that the results from ``start`` to ``stop`` depend on."""
        return (start, stop) if self.same else (int(self.lower[start]), int(self.upper[stop - 1]) + 1)

    def results_from(self, samples: int) -> int:
        """How many results the first ``samples`` samples suffice for."""
        return samples if self.same else int(torch.searchsorted(self.upper, samples))

    def apply(self, volume: Tensor, axis: int, start: int, stop: int) -> Tensor:
        """The results from ``start`` to ``stop`` along ``axis`` of (\\*, samples, \\*), of which only
        :meth:`samples_of` them are given.
        """
        if self.same:
            return volume
        first, end = self.samples_of(start, stop)
        inner = math.prod(volume.shape[axis + 1 :])
        if self.matrix is not None or inner == 1:
            part = self._dense()[start:stop, first:end].to(volume)
            multiplied: Tensor = torch.tensordot(volume, part, dims=([axis], [1]))
            return multiplied.movedim(-1, axis)
        lower, upper = self.lower[start:stop] - first, self.upper[start:stop] - first
        shape = [*volume.shape[:axis], stop - start, *volume.shape[axis + 1 :]]
        lines = volume.reshape(-1, end - first, inner)
        found = _interpolate(lines, lower.to(volume.device), upper.to(volume.device), self.weight[start:stop].to(lines))
        return found.view(shape)

    def _dense(self) -> Tensor:
        if self.matrix is not None:
            return self.matrix
        row = torch.arange(self.results)
        dense = torch.zeros(self.results, int(self.upper[-1]) + 1)
        dense[row, self.upper] = self.weight
        dense[row, self.lower] += 1 - self.weight
        return dense


@lru_cache(maxsize=_CACHED)
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


@lru_cache(maxsize=_CACHED)
def _sampling(extent_in: int, extent_out: int, ratio: float) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Lower, upper, weight and matrix for steps of ``ratio`` samples around the common centre, clamped to those that
    there are.
    """
    index = torch.arange(extent_out, dtype=torch.float64)
    place = ((index - (extent_out - 1) / 2) * ratio + (extent_in - 1) / 2).clamp(0, extent_in - 1)
    lower = place.floor().long()
    upper = (lower + 1).clamp(max=extent_in - 1)
    weight = (place - lower).float()
    if ratio <= 1:
        return lower, upper, weight, None
    smooth = smoothing_matrix(extent_in, ratio)
    matrix = torch.lerp(smooth[lower], smooth[upper], weight[:, None])
    counts = matrix != 0
    lower, upper = counts.int().argmax(dim=1), extent_in - 1 - counts.flip(1).int().argmax(dim=1)
    return lower, upper, weight, matrix


def _interpolate(lines: Tensor, lower: Tensor, upper: Tensor, weight: Tensor) -> Tensor:
    """(outer, samples, inner) -> (outer, results, inner)."""
    outer, results, inner = len(lines), len(lower), lines.shape[2]
    found = lines.new_empty(outer, results, inner)
    at_once = _AT_ONCE if lines.device.type == "cpu" else found.numel()
    if inner > at_once // 4:
        _interpolate_row_by_row(lines, lower.tolist(), upper.tolist(), weight.tolist(), found, at_once)
        return found
    rows = min(results, at_once // inner)
    outers = max(1, at_once // (rows * inner))
    for line, row in product(range(0, outer, outers), range(0, results, rows)):
        given, these = lines[line : line + outers], slice(row, row + rows)
        first, second = given.index_select(1, lower[these]), given.index_select(1, upper[these])
        found[line : line + outers, these] = first.lerp_(second, weight[these, None])
    return found


def _interpolate_row_by_row(
    lines: Tensor, lower: list[int], upper: list[int], weight: list[float], found: Tensor, at_once: int
) -> None:
    """Long rows need no gathering: each result lies between two slices."""
    for line, into in zip(lines, found, strict=True):
        for first, second, share, result in zip(lower, upper, weight, into, strict=True):
            for value in range(0, len(result), at_once):
                part = slice(value, value + at_once)
                torch.lerp(line[first, part], line[second, part], share, out=result[part])


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
