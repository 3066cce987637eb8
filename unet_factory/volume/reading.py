"""From a file of any format to a checked header, and slab by slab to voxels: one float32 copy of the scan, in RAS+."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_factory.domain.errors import NotAVolume
from unet_factory.domain.image_choice import ANY_IMAGE, ImageChoice
from unet_factory.domain.spacing import SpacingMm
from unet_factory.domain.volume_limits import DEFAULT_LIMITS, VolumeLimits, check_limit
from unet_factory.volume.geometry import as_stored, in_ras_order, trusted_grid
from unet_factory.volume.header import Volume, VolumeHeader, header_of
from unet_factory.volume.metaimage import read_metaimage
from unet_factory.volume.nifti import read_nifti
from unet_factory.volume.nrrd import read_nrrd
from unet_factory.volume.payload import check_length, file_bytes, payload_pieces
from unet_factory.volume.sniff import sniff_format
from unet_factory.volume.stored import FileFormat, StoredVolume, check_claims


def read_header(
    path: Path,
    *,
    limits: VolumeLimits = DEFAULT_LIMITS,
    spacing_ras_mm: SpacingMm | None = None,
    choice: ImageChoice = ANY_IMAGE,
) -> VolumeHeader:
    """Check the limits, the geometry and the length of the file at ``path`` without loading its voxels.

    A given ``spacing_ras_mm`` overrules the file's own spacing, which may then be missing or wrong; the directions of
    its axes still count, and the columns of ``affine`` get the given lengths. ``choice`` names the images to take
    where a DICOM series has several at each place.

    Raises:
        NotAVolume: not NIfTI, MHA, NRRD or DICOM; truncated or damaged; voxels that are not one real number each.
        VolumeTooLarge: beyond ``limits``.
        GeometryInvalid: not one 3D volume; an affine that is singular, sheared or not finite.
        SpacingInvalid: the file's spacing, or the given one, is missing or not three positive finite numbers.
        SpacingAmbiguous: the file's own statements about the spacing disagree.
    """
    if _is_dicom(path, limits):
        from unet_factory.volume.dicom import read_series

        return read_series(path, limits=limits, spacing_ras_mm=spacing_ras_mm, choice=choice).header
    return _read_checked(path, limits, spacing_ras_mm)[1]


def read_volume(
    path: Path,
    *,
    limits: VolumeLimits = DEFAULT_LIMITS,
    spacing_ras_mm: SpacingMm | None = None,
    choice: ImageChoice = ANY_IMAGE,
) -> Volume:
    """Load the file at ``path`` as float32 in RAS+; of a DICOM file the ``DicomVolume``, which keeps its headers.

    Parameters and errors are those of ``read_header``. A volume with NaN or infinite voxels is refused as well
    (NotAVolume gives their number): only the sender can say what they stand for, and a single one would spoil the
    normalisation of the whole scan.
    """
    if _is_dicom(path, limits):
        from unet_factory.volume.dicom import read_series_volume

        return read_series_volume(path, limits=limits, spacing_ras_mm=spacing_ras_mm, choice=choice)
    stored, header = _read_checked(path, limits, spacing_ras_mm)
    return Volume(read_voxels_ras(path, stored), header.spacing_ras_mm, header)


def _is_dicom(path: Path, limits: VolumeLimits) -> bool:
    """Whether to read the file with pydicom, which is imported only then."""
    check_limit("file size", "bytes", file_bytes(path), limits.compressed_bytes)
    return sniff_format(path, limits) == "dicom"


def _read_checked(path: Path, limits: VolumeLimits, given: SpacingMm | None) -> tuple[StoredVolume, VolumeHeader]:
    stored = read_stored(path)
    check_claims(stored, limits)
    grid = trusted_grid(stored, given)
    check_length(path, stored.payload)
    return stored, header_of(stored, grid)


_READERS: dict[FileFormat, Callable[[Path], StoredVolume]] = {
    "nifti": read_nifti,
    "mha": read_metaimage,
    "nrrd": read_nrrd,
}


def read_stored(path: Path) -> StoredVolume:
    """Read the header of the file at ``path`` in whichever format it is, without judging spacing, limits or length.

    Raises:
        NotAVolume: no such file, another format, or a header that cannot be read.
        GeometryInvalid: not one 3D volume.
    """
    with np.errstate(all="ignore"):  # the check of the geometry reports overflows
        return _READERS[sniff_format(path)](path)


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
