"""Which format a file is in, told from its first bytes and never from its name."""

import re
import struct
from pathlib import Path

from unet_factory.domain.errors import NotAVolume
from unet_factory.domain.volume_limits import DEFAULT_LIMITS, VolumeLimits
from unet_factory.volume.archive import ZIP_MAGICS, holds_dicom
from unet_factory.volume.dicom_start import APPLE_DOUBLE, is_dicom
from unet_factory.volume.payload import GZIP_MAGIC, first_bytes
from unet_factory.volume.stored import FileFormat

_SNIFFED_BYTES = 1024
_METAIMAGE_START = re.compile(rb"\s*(ObjectType|NDims|Comment|ObjectSubType|TransformType|Name|ID)[ \t]*=")
_NIFTI_MAGIC = {348: (344, (b"n+1\0",), (b"ni1\0",)), 540: (4, (b"n+2\0",), (b"ni2\0",))}


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
    if head.startswith(ZIP_MAGICS):
        return "is a zip archive without a DICOM object"
    if head.startswith(APPLE_DOUBLE):
        return "is what macOS leaves beside a file (._NAME), not the file itself"
    if head.startswith((b"\x89HDF", b"CDF")):
        return "is an HDF5 or NetCDF file (MINC?)"
    if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        return "is text"
    return "begins with the bytes " + head[:8].hex(" ")
