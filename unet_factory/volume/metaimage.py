"""MetaImage files with their voxels inside (.mha). Their world is LPS mm."""

import re
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unet_factory.domain.errors import GeometryInvalid, NotAVolume, SpacingInvalid
from unet_factory.volume.geometry import LPS_TO_RAS, column_lengths, usable_spacing
from unet_factory.volume.header import Payload, StoredGrid, StoredVolume, Triple, payload_bytes, spatial_shape
from unet_factory.volume.payload import COMPRESSION_LEVEL
from unet_factory.volume.text_header import (
    Fields,
    axis_lengths,
    numbers,
    one_of,
    read_text_header,
    required,
    shown,
    unique_fields,
)

_END = re.compile(rb"(?m)^[ \t]*ElementDataFile[ \t]*=[^\n]*\n")
_SPACING = ("ElementSpacing", "ElementSize")  # the second is what MetaIO falls back to
_ORIGIN = ("Offset", "Position", "Origin")
_DIRECTIONS = ("TransformMatrix", "Rotation", "Orientation")
_DTYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # MetaIO's MET_LONG has four bytes on every platform
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def read_metaimage(path: Path) -> StoredVolume:
    """The header's statements. Without a ``TransformMatrix`` the axes are L, P, S, as ITK reads it.

    Raises:
        NotAVolume: a header that cannot be, voxels in another file, as text, or not one real number each.
        GeometryInvalid: not one 3D volume, or space mixed with a fourth axis.
        SpacingInvalid: a unit of length other than mm.
    """
    fields, end = _read_fields(path)
    _check_layout(fields)
    stored_shape = axis_lengths(fields, "DimSize", "NDims")
    shape = spatial_shape(stored_shape)
    spacing_source, spacing_mm = _spacing(fields, len(stored_shape))
    dtype = _dtype(fields)
    return StoredVolume(
        format="mha",
        shape=shape,
        dtype=dtype,
        affine=_affine(fields, len(stored_shape), usable_spacing(spacing_mm or (1.0, 1.0, 1.0))),
        affine_source="TransformMatrix with ElementSpacing",
        declared_spacing_mm=spacing_mm,
        spacing_source=spacing_source,
        payload=_payload(fields, end, payload_bytes(shape, dtype)),
    )


def metaimage_labelmap(source: Path, stored: StoredGrid, labels: NDArray[np.uint8]) -> tuple[bytes, bytes]:
    """Header and voxels of a label map: the geometry of an MHA source word by word, else written anew."""
    voxels = zlib.compress(labels.tobytes(order="F"), COMPRESSION_LEVEL)
    fields = {
        "ObjectType": "Image",
        **(_copied_grid(source) if stored.format == "mha" else _new_grid(stored)),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": str(len(voxels)),
        "ElementType": "MET_UCHAR",
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in fields.items()).encode("latin-1"), voxels


def _read_fields(path: Path) -> tuple[Fields, int]:
    lines, end = read_text_header(path, _END)
    pairs = (line.partition("=") for line in lines if line.strip())
    return unique_fields((key.strip(), value) for key, _, value in pairs), end


def _check_layout(fields: Fields) -> None:
    """Only voxels inside the file: another file's name could lead anywhere on the machine that reads it."""
    one_of("ObjectType", fields.get("ObjectType", "Image"), ["Image"])
    if fields["ElementDataFile"] not in ("LOCAL", "Local", "local"):
        raise NotAVolume("the voxels are in another file (ElementDataFile); send one .mha that holds them")
    one_of("HeaderSize", fields.get("HeaderSize", "0"), ["0"])
    one_of("ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"), ["1"])
    if not _is_true(fields.get("BinaryData", "True")):
        raise NotAVolume("BinaryData is False; save the voxels as binary data")
    if fields.get("DistanceUnits", "mm") not in ("mm", "?", ""):
        raise SpacingInvalid(f"DistanceUnits is {shown(fields['DistanceUnits'])}; mm is needed")


def _payload(fields: Fields, start: int, n_bytes: int) -> Payload:
    if not _is_true(fields.get("CompressedData", "False")):
        return Payload(start, n_bytes)
    return Payload(0, n_bytes, deflated_from=start)


def _dtype(fields: Fields) -> np.dtype[np.generic]:
    name = one_of("ElementType", required(fields, "ElementType"), list(_DTYPES))
    flags = (fields.get(key, "False") for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
    return np.dtype(_DTYPES[name]).newbyteorder(">" if any(map(_is_true, flags)) else "<")


def _spacing(fields: Fields, n_axes: int) -> tuple[str, Triple | None]:
    key = _stated(fields, _SPACING[:1]) or _stated(fields, _SPACING[1:])
    if key is None:
        return _SPACING[0], None
    i_mm, j_mm, k_mm = numbers(key, fields[key], n_axes)[:3]
    return key, (i_mm, j_mm, k_mm)


def _affine(fields: Fields, n_axes: int, spacing_mm: Triple) -> NDArray[np.float64]:
    """(4, 4) in RAS mm. Each row of the file's matrix is the direction of one axis."""
    directions, origin = np.eye(n_axes), np.zeros(n_axes)
    if key := _stated(fields, _DIRECTIONS):
        directions = np.array(numbers(key, fields[key], n_axes**2)).reshape(n_axes, n_axes)
    if key := _stated(fields, _ORIGIN):
        origin = np.array(numbers(key, fields[key], n_axes))
    if directions[:3, 3:].any() or directions[3:, :3].any():
        raise GeometryInvalid(f"the orientation mixes space with a fourth axis: {directions.tolist()}")
    affine = np.eye(4)
    affine[:3, :3] = directions[:3, :3].T * spacing_mm
    affine[:3, 3] = origin[:3]
    return LPS_TO_RAS * affine


def _stated(fields: Fields, aliases: tuple[str, ...]) -> str | None:
    """The one of ``aliases`` that the header uses."""
    stated = [key for key in aliases if key in fields]
    if len(stated) > 1:
        raise NotAVolume(f"the header states both {' and '.join(stated)}")
    return stated[0] if stated else None


def _is_true(flag: str) -> bool:
    return flag[:1] in ("T", "t", "1")


def _copied_grid(source: Path) -> Fields:
    fields, _ = _read_fields(source)
    grid = ("NDims", *_ORIGIN, *_DIRECTIONS, "CenterOfRotation", "AnatomicalOrientation", *_SPACING, "DimSize")
    return {key: fields[key] for key in grid if key in fields}


def _new_grid(stored: StoredGrid) -> Fields:
    affine_lps = LPS_TO_RAS * stored.affine
    spacing_mm = column_lengths(affine_lps)
    return {
        "NDims": "3",
        "TransformMatrix": _words((affine_lps[:3, :3] / spacing_mm).T.ravel()),
        "Offset": _words(affine_lps[:3, 3]),
        "ElementSpacing": _words(np.array(spacing_mm)),
        "DimSize": " ".join(map(str, stored.shape)),
    }


def _words(values: NDArray[np.float64]) -> str:
    return " ".join(map(repr, values.tolist()))
