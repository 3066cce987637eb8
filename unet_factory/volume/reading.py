"""From a file of any format to a checked header, and slab by slab to voxels: one float32 copy of the scan, in RAS+."""

import math
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_factory.domain.errors import NotAVolume
from unet_factory.domain.image_choice import ANY_IMAGE, ImageChoice
from unet_factory.domain.spacing import SpacingMm
from unet_factory.domain.volume_limits import DEFAULT_LIMITS, VolumeLimits, check_limit
from unet_factory.volume.archive import ZIP_MAGICS, holds_dicom
from unet_factory.volume.dicom_start import APPLE_DOUBLE, is_dicom
from unet_factory.volume.geometry import as_stored, in_ras_order, trusted_grid
from unet_factory.volume.header import FileFormat, StoredVolume, Volume, VolumeHeader, check_claims, header_of
from unet_factory.volume.metaimage import read_metaimage
from unet_factory.volume.nifti import read_nifti
from unet_factory.volume.nrrd import read_nrrd
from unet_factory.volume.payload import GZIP_MAGIC, check_length, file_bytes, first_bytes, payload_pieces


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
    kind = _format_of(path, limits)
    if kind == "dicom":
        from unet_factory.volume.dicom import read_series

        return read_series(path, limits=limits, spacing_ras_mm=spacing_ras_mm, choice=choice).header
    return _read_checked(path, kind, limits, spacing_ras_mm)[1]


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
    kind = _format_of(path, limits)
    if kind == "dicom":
        from unet_factory.volume.dicom import read_series_volume

        return read_series_volume(path, limits=limits, spacing_ras_mm=spacing_ras_mm, choice=choice)
    stored, header = _read_checked(path, kind, limits, spacing_ras_mm)
    return Volume(read_voxels_ras(path, stored), header.spacing_ras_mm, header)


def _format_of(path: Path, limits: VolumeLimits) -> FileFormat:
    """By what the file begins with, once its size is allowed; pydicom is imported only where it is to read it."""
    check_limit("file size", "bytes", file_bytes(path), limits.compressed_bytes)
    return sniff_format(path, limits)


def _read_checked(
    path: Path, kind: FileFormat, limits: VolumeLimits, given: SpacingMm | None
) -> tuple[StoredVolume, VolumeHeader]:
    stored = read_stored(path, kind)
    check_claims(stored, limits)
    grid = trusted_grid(stored, given)
    check_length(path, stored.payload)
    return stored, header_of(stored, grid)


_READERS: dict[FileFormat, Callable[[Path], StoredVolume]] = {
    "nifti": read_nifti,
    "mha": read_metaimage,
    "nrrd": read_nrrd,
}


def read_stored(path: Path, kind: FileFormat) -> StoredVolume:
    """Read the header of the file at ``path`` in the format ``kind``, without judging spacing, limits or length.

    Raises:
        NotAVolume: no such file, or a header that cannot be read.
        GeometryInvalid: not one 3D volume.
    """
    with np.errstate(all="ignore"):  # the check of the geometry reports overflows
        return _READERS[kind](path)


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


_SNIFFED_BYTES = 1024
_METAIMAGE_START = re.compile(rb"\s*(ObjectType|NDims|Comment|ObjectSubType|TransformType|Name|ID)[ \t]*=")
_NIFTI_MAGIC = {348: (344, (b"n+1\0",), (b"ni1\0",)), 540: (4, (b"n+2\0",), (b"ni2\0",))}

_OTHER_FORMATS = {
    **dict.fromkeys(ZIP_MAGICS, "a zip archive without a DICOM object; send the volume without the archive"),
    APPLE_DOUBLE: "what macOS leaves beside a file (._NAME), not the file itself",
    **dict.fromkeys((b"\x89HDF", b"CDF"), "an HDF5 or NetCDF file (MINC?)"),
    b"BZh": "compressed by bzip2; compress it by gzip, or not at all",
    b"\xfd7zXZ\0": "compressed by xz; compress it by gzip, or not at all",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; compress it by gzip, or not at all",
    GZIP_MAGIC: "gzipped once more; gzip it once",
    b"\0\0\0\1\0\0": "a FreeSurfer MGH volume; convert it to NIfTI, such as by mri_convert",
    b"# vtk": "a VTK file; convert it to NIfTI, NRRD or MHA",
    **dict.fromkeys(
        (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*"),
        "a picture (PNG, JPEG or TIFF), which does not say where it lies in the patient; send the scan itself",
    ),
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; send a zip archive",
    b"Rar!": "a RAR archive; send a zip archive",
    **dict.fromkeys((struct.pack("<i", 348), struct.pack(">i", 348)), "an Analyze 7.5 header; convert it to NIfTI"),
}


def sniff_format(path: Path, limits: VolumeLimits = DEFAULT_LIMITS) -> FileFormat:
    """``nifti`` (plain or gzipped), ``mha``, ``nrrd``, or ``dicom``: one object, or a zip archive that holds any.

    Raises:
        NotAVolume: no such file, or none of these; the message says what the file looks like instead.
        VolumeTooLarge: a zip archive beyond ``limits``.
    """
    stored = first_bytes(path, _SNIFFED_BYTES)
    gzipped = stored.startswith(GZIP_MAGIC)
    head = first_bytes(path, _SNIFFED_BYTES, deflated_from=0) if gzipped else stored
    if _is_nifti(head):
        return "nifti"
    if not gzipped and head.startswith(b"NRRD"):
        return "nrrd"
    if not gzipped and _METAIMAGE_START.match(head):
        return "mha"
    if is_dicom(stored) or (stored.startswith(ZIP_MAGICS) and holds_dicom(path, limits)):
        return "dicom"
    raise NotAVolume(
        f"the file is no NIfTI, MHA, NRRD or DICOM volume: it {'holds gzipped data that' if gzipped else ''} "
        f"{_impression(head)}".replace("  ", " ")
    )


def _is_nifti(head: bytes) -> bool:
    kind = _nifti_kind(head)
    if kind == "pair":
        raise NotAVolume("the file is the .hdr half of a NIfTI pair, without its voxels; send a single .nii or .nii.gz")
    return kind == "single"


def _nifti_kind(head: bytes) -> str | None:
    if len(head) < 348:
        return None
    for byte_order in "<>":
        (header_bytes,) = struct.unpack_from(f"{byte_order}i", head)
        if header_bytes in _NIFTI_MAGIC:
            at, single, pair = _NIFTI_MAGIC[header_bytes]
            magic = head[at : at + 4]
            return "single" if magic in single else "pair" if magic in pair else None
    return None


def _impression(head: bytes) -> str:
    if not head:
        return "is empty"
    if is_dicom(head):
        return "is a DICOM object; send it as it is, or a whole series in a zip archive"
    for start, kind in _OTHER_FORMATS.items():
        if head.startswith(start):
            return f"is {kind}"
    if head[257:262] == b"ustar":
        return "is a tar archive; send one volume, or the files of one DICOM series in a zip archive"
    if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        return "is text"
    return "begins with the bytes " + head[:8].hex(" ")
