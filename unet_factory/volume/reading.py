"""From a file to a checked header and to voxels."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unet_factory.errors import VolumeTooLarge
from unet_factory.spacing import SpacingMm
from unet_factory.volume.formats import read_stored
from unet_factory.volume.geometry import trusted_grid
from unet_factory.volume.payload import check_length, file_bytes
from unet_factory.volume.stored import StoredVolume
from unet_factory.volume.voxels import read_voxels_ras


@dataclass(frozen=True)
class VolumeLimits:
    """What a file may claim and hold; checked from the header, before a voxel is loaded."""

    compressed_bytes: int = 2 * 2**30
    decompressed_bytes: int = 8 * 2**30
    voxels: int = 1024**3
    max_axis: int = 4096


DEFAULT_LIMITS = VolumeLimits()


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """A volume's geometry, without its voxels.

    ``format`` is nifti, mha or nrrd; ``shape`` and ``dtype`` are the file's own; ``affine`` (4, 4) maps the file's
    voxel indices to RAS mm; ``orientation`` names the directions of the file's axes, such as LPS.
    """

    format: str
    shape: tuple[int, int, int]
    spacing_ras_mm: SpacingMm
    affine: NDArray[np.float64]
    orientation: str
    shape_ras: tuple[int, int, int]
    dtype: str


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan in RAS+: ``data`` (r, a, s), float32 and C-contiguous, intensities as scaled by the file's header."""

    data: NDArray[np.float32]
    spacing_ras_mm: SpacingMm
    header: VolumeHeader


def read_header(
    path: Path, *, limits: VolumeLimits = DEFAULT_LIMITS, spacing_ras_mm: SpacingMm | None = None
) -> VolumeHeader:
    """Validate the limits, the geometry and the length of the file at ``path`` without loading its voxels.

    ``spacing_ras_mm`` overrules the file: its own spacing is then neither needed nor believed, the directions of its
    axes are, and the columns of ``affine`` get the given lengths.

    Raises:
        NotAVolume: not NIfTI, MHA or NRRD; truncated or damaged; voxels that are not one real number each.
        VolumeTooLarge: beyond ``limits``.
        GeometryInvalid: not one 3D volume; an affine that is singular, sheared or not finite.
        SpacingInvalid: the file's spacing, or the given one, is missing or not three positive finite numbers.
        SpacingAmbiguous: the file's own statements about the spacing disagree.
    """
    return _read_checked(path, limits, spacing_ras_mm)[1]


def read_volume(
    path: Path, *, limits: VolumeLimits = DEFAULT_LIMITS, spacing_ras_mm: SpacingMm | None = None
) -> Volume:
    """Load the file at ``path`` as float32 in RAS+; parameters and errors as in ``read_header``.

    A volume with NaN or infinite voxels is refused (NotAVolume names their number): what they should count as is the
    sender's to say, and one of them would spoil the normalisation of the whole scan.
    """
    stored, header = _read_checked(path, limits, spacing_ras_mm)
    return Volume(read_voxels_ras(path, stored), header.spacing_ras_mm, header)


def _read_checked(path: Path, limits: VolumeLimits, given: SpacingMm | None) -> tuple[StoredVolume, VolumeHeader]:
    _check_limit("file size", "bytes", file_bytes(path), limits.compressed_bytes)
    stored = read_stored(path)
    _check_claims(stored, limits)
    grid = trusted_grid(stored, given)
    check_length(path, stored.payload)
    return stored, VolumeHeader(
        format=stored.format,
        shape=stored.shape,
        spacing_ras_mm=grid.spacing_ras_mm,
        affine=grid.affine,
        orientation=grid.orientation,
        shape_ras=grid.shape_ras,
        dtype=stored.dtype.name,
    )


def _check_claims(stored: StoredVolume, limits: VolumeLimits) -> None:
    shape = " x ".join(map(str, stored.shape))
    _check_limit(f"longest axis of the shape {shape}", "voxels", max(stored.shape), limits.max_axis)
    _check_limit(f"shape {shape}", "voxels", math.prod(stored.shape), limits.voxels)
    _check_limit(
        f"shape {shape} of {stored.dtype.name}",
        "bytes decompressed",
        stored.payload.offset + stored.payload.n_bytes,
        limits.decompressed_bytes,
    )


def _check_limit(what: str, unit: str, found: int, allowed: int) -> None:
    if found > allowed:
        raise VolumeTooLarge(f"{what}: {found} {unit}, at most {allowed} are allowed", found=found, allowed=allowed)
