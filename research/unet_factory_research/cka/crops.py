"""Crops of scans and of what layers make of them, aligned in millimetres (paper section 4.3).

Positions are in mm from the scan's centre, axes (R, A, S), so they mean the same at every spacing. A layer's voxel i
stands where its receptive field is centred: at the input's voxel ``ratio * i``, for that is where strided convolutions
put it, and skip connections bring the decoder back onto the same grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from unet_factory.domain.errors import FactoryError
from unet_factory.domain.spacing import SnappedSpacing, SpacingMm
from unet_factory.model.inference import pad_to_divisors
from unet_factory.model.preprocessing import resample, zscore
from unet_factory_training.datasets import LabelledScan


class CropTooLarge(FactoryError):
    slug, title = "crop-too-large", "A scan is smaller than the crop"


@dataclass(frozen=True)
class Crop:
    """A cube of ``extent_mm`` around ``centre_mm`` of a scan."""

    scan: LabelledScan
    centre_mm: SpacingMm
    extent_mm: float


@dataclass(frozen=True)
class Field:
    """What a network is given for a crop: ``image`` (1, 1, r, a, s), its first voxel's centre at ``origin_mm``."""

    image: Tensor
    origin_mm: SpacingMm
    spacing: SnappedSpacing


def draw_crops(scans: Sequence[LabelledScan], extent_mm: float, each: int, seed: int) -> list[list[Crop]]:
    """``each`` rounds of one crop from every scan, uniform over where the crop lies within the scan.

    Raises:
        CropTooLarge: a scan does not hold the crop.
    """
    generator = torch.Generator().manual_seed(seed)
    return [[_draw_crop(scan, extent_mm, generator) for scan in scans] for _ in range(each)]


def field_of(crop: Crop, spacing: SnappedSpacing, divisors: Sequence[int]) -> Field:
    """The crop with a margin of half its extent on each side, as far as the scan goes, at ``spacing``.

    Prepared as inference does: the whole scan is resampled and z-scored; behind the far end are zeros, up to extents
    that the network can take.
    """
    image = zscore(resample(crop.scan.image, crop.scan.spacing_ras_mm, spacing.mm))
    part, origin_mm = [], []
    for extent, mm, centre_mm in zip(image.shape, spacing.mm, crop.centre_mm, strict=True):
        middle = (extent - 1) / 2
        first = max(0, int((centre_mm - crop.extent_mm) / mm + middle))
        last = min(extent, int((centre_mm + crop.extent_mm) / mm + middle) + 2)
        part.append(slice(first, last))
        origin_mm.append((first - middle) * mm)
    r_mm, a_mm, s_mm = origin_mm
    return Field(pad_to_divisors(image[tuple(part)], divisors)[None, None], (r_mm, a_mm, s_mm), spacing)


def aligned(features: Tensor, ratios: Sequence[int], field: Field, crop: Crop) -> Tensor:
    """A layer's result within the crop, and nothing beyond it, whatever the spacing.

    Args:
        features: (channels, r, a, s), the layer's result for ``field``.
        ratios: the field's voxels per voxel of the layer, per axis.

    Returns:
        (channels, r', a', s'): as many voxels as come nearest to the layer's own, evenly over the crop, interpolated
        linearly; beyond the layer's last voxel its value goes on.
    """
    for axis, ratio in enumerate(ratios):
        step_mm = ratio * field.spacing.mm[axis]
        positions_mm = crop.centre_mm[axis] + _even(crop.extent_mm, step_mm)
        index = (positions_mm - field.origin_mm[axis]) / step_mm
        weights = _linear(index, features.shape[1 + axis]).to(features)
        features = torch.tensordot(features, weights, dims=([1 + axis], [1])).movedim(-1, 1 + axis)
    return features


def _even(extent_mm: float, step_mm: float) -> Tensor:
    """Centres of equal parts of an extent around zero, as many as make them nearest to ``step_mm``."""
    count = max(1, round(extent_mm / step_mm))
    return ((torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5) * extent_mm


def _linear(index: Tensor, extent: int) -> Tensor:
    """(positions, extent): weights of linear interpolation."""
    distance = index.clamp(0, extent - 1)[:, None] - torch.arange(extent, dtype=torch.float64)
    return (1 - distance.abs()).clamp(min=0)


def _draw_crop(scan: LabelledScan, extent_mm: float, generator: Generator) -> Crop:
    room = [n * mm - extent_mm for n, mm in zip(scan.image.shape, scan.spacing_ras_mm, strict=True)]
    if min(room) < 0:
        held = extent_mm + min(room)
        raise CropTooLarge(
            f"{scan.name} is too small for a crop of {extent_mm:g} mm; the largest possible is {held:g} mm"
        )
    position = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    r_mm, a_mm, s_mm = ((at - 0.5) * left for at, left in zip(position, room, strict=True))
    return Crop(scan, (r_mm, a_mm, s_mm), extent_mm)
