"""Padding: pixels outside the scanned area, marked by a value that is not an intensity (PS3.3 C.7.5.1.1.2).

A CT's -2000 hardly matters. A value far from all others, such as -32768, would rule the normalisation of the scan, and
is replaced by the lowest value that is not padding.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from unet_factory.volume.dicom.slices import Slice


def replace_far_padding(data: NDArray[np.float32], slices: Sequence[Slice]) -> str:
    """Fill the padding in ``data`` (column, row, slice) in place where it is further from the other values than these
    are from each other; returns what was done, in words, or nothing."""
    ranges = [_padding_range(one) for one in slices]
    if all(limits is None for limits in ranges):
        return ""
    lowest, highest, padded, value = np.inf, -np.inf, 0, 0.0
    for index, limits in enumerate(ranges):
        mask = _mask(data[:, :, index], limits)
        rest = data[:, :, index][~mask]
        if rest.size:
            lowest, highest = min(lowest, float(rest.min())), max(highest, float(rest.max()))
        if limits is not None and mask.any():
            padded, value = padded + int(mask.sum()), limits[0]
    if not padded or not max(lowest - value, value - highest) > highest - lowest:
        return ""
    for index, limits in enumerate(ranges):
        data[:, :, index][_mask(data[:, :, index], limits)] = lowest
    return f"replaced {padded} voxels of padding, value {value:g}, by the lowest other value, {lowest:g}"


def _mask(pixels: NDArray[np.float32], limits: tuple[float, float] | None) -> NDArray[np.bool_]:
    if limits is None:
        return np.zeros(pixels.shape, bool)
    inside: NDArray[np.bool_] = (pixels >= np.float32(limits[0])) & (pixels <= np.float32(limits[1]))
    return inside


def _padding_range(one: Slice) -> tuple[float, float] | None:
    """The lowest and the highest padding value of a slice, rescaled as its pixels are."""
    dataset = one.source.dataset
    value = _stored(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = _stored(dataset, "PixelPaddingRangeLimit")
    ends = sorted(one.slope * end + one.inter for end in (value, value if limit is None else limit))
    return ends[0], ends[1]


def _stored(dataset: Dataset, keyword: str) -> int | None:
    """As a pixel holds it: the header may have it unsigned, or as bytes whose type implicit VR leaves open."""
    value = dataset.get(keyword)
    if isinstance(value, bytes):
        if not value:
            return None
        value = int.from_bytes(value[:2], "little" if dataset.original_encoding[1] else "big")
    if not isinstance(value, int):
        return None
    bits = int(dataset.BitsAllocated)
    signed = int(dataset.PixelRepresentation) == 1 and value >= 2 ** (bits - 1)
    return value - 2**bits if signed else value
