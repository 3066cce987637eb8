"""Voxels from the file to a float32 array in RAS+, slab by slab: one copy of the volume, never one in float64."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_factory.domain.errors import NotAVolume
from unet_factory.volume.geometry import as_stored, in_ras_order
from unet_factory.volume.payload import payload_pieces
from unet_factory.volume.stored import StoredVolume

_SLAB_BYTES = 8 * 2**20


def read_voxels_ras(path: Path, stored: StoredVolume) -> NDArray[np.float32]:
    """The voxels (r, a, s), float32, C-contiguous, with the header's slope and intercept applied.

    Raises:
        NotAVolume: truncated or damaged data, or voxels that are not finite in float32.
    """
    data_ras = np.empty(in_ras_order(stored.shape, stored.affine), np.float32)
    data = as_stored(data_ras, stored.affine)
    non_finite = 0
    at_k = 0
    with np.errstate(all="ignore"):  # what overflows float32 is counted below
        for slab in _slabs(path, stored):
            target = data[:, :, at_k : at_k + slab.shape[2]]
            target[...] = _scaled(slab, stored) if stored.is_scaled else slab
            non_finite += target.size - int(np.count_nonzero(np.isfinite(target)))
            at_k += slab.shape[2]
    _check_finite(non_finite, data.size)
    return data_ras


def _slabs(path: Path, stored: StoredVolume) -> Iterator[NDArray[Any]]:
    """Whole slices (i, j, some k) in the file's type, about 8 MiB at a time."""
    slice_bytes = math.prod(stored.shape[:2]) * stored.dtype.itemsize
    slab_bytes = max(1, _SLAB_BYTES // slice_bytes) * slice_bytes
    for piece in payload_pieces(path, stored.payload, slab_bytes):
        yield np.frombuffer(piece, stored.dtype).reshape((*stored.shape[:2], -1), order="F")


def _scaled(slab: NDArray[Any], stored: StoredVolume) -> NDArray[np.float64]:
    """In float64, so that large integers and large intercepts lose nothing before the final rounding."""
    return slab.astype(np.float64) * stored.slope + stored.inter


def _check_finite(non_finite: int, voxels: int) -> None:
    if non_finite:
        raise NotAVolume(
            f"{non_finite} of {voxels} voxels are NaN, infinite or beyond float32; give them a finite value, such as 0",
            non_finite_voxels=non_finite,
            voxels=voxels,
        )
