"""NRRD files with their voxels inside (.nrrd), raw or gzipped. Their world is LPS, RAS or LAS mm, as ``space`` says."""

import gzip
import math
import re
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unet_factory.domain.errors import GeometryInvalid, NotAVolume, SpacingInvalid
from unet_factory.volume.geometry import column_lengths, usable_spacing
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

_END = re.compile(rb"\r?\n\r?\n|(?im:^data ?file:(?!=).*)")  # a header alone (.nhdr) may go on to the end of its file
_WORD = re.compile(r'"(?P<quoted>[^"]*)"?|(?P<bare>[^\s"]+)')
_VECTOR = re.compile(r"none|\(([^()]*)\)")
_SPATIAL_KINDS = ("domain", "space", "none", "???")
_DTYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPE_OF = {name: dtype for dtype, names in _DTYPES.items() for name in names}
_ENDIANS: dict[str, Literal["<", ">"]] = {"little": "<", "big": ">"}
_MM_OR_UNKNOWN = {"mm", "millimeter", "millimeters", "none", "unknown", "???", ""}
_RAW, _GZIPPED = ("raw",), ("gzip", "gz")
_RAS_SIGNS = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1.0, 1.0, 1.0)),
}
_GRID_KEYS = (
    *("dimension", "space", "spacedimension", "sizes", "spacedirections", "kinds", "spaceorigin", "spaceunits"),
    *("spacings", "axismins", "axismaxs", "centers", "centerings", "units"),
)


def read_nrrd(path: Path) -> StoredVolume:
    """The header's statements. Without a named ``space`` the world is taken for LPS, as ITK does.

    Raises:
        NotAVolume: a header that cannot be, voxels in another file, another encoding, or not one real number each.
        GeometryInvalid: not one 3D volume, or a space without anatomical directions.
        SpacingInvalid: a unit of length other than mm.
    """
    fields, end = _read_fields(path)
    _check_layout(fields)
    shape, dtype = _spatial_axes(fields)[1], _dtype(fields)
    affine, spacing_mm = _geometry(fields)
    return StoredVolume(
        format="nrrd",
        shape=shape,
        dtype=dtype,
        affine=affine,
        affine_source="space directions",
        declared_spacing_mm=spacing_mm,
        spacing_source="space directions" if "spacedirections" in fields else "space directions or spacings",
        payload=_payload(fields, end, payload_bytes(shape, dtype)),
    )


def nrrd_labelmap(source: Path, stored: StoredGrid, labels: NDArray[np.uint8]) -> tuple[bytes, bytes]:
    """Header and voxels of a label map: the geometry of an NRRD source word by word, else written anew."""
    fields = _copied_grid(source) if stored.format == "nrrd" else _new_grid(stored)
    fields |= {"type": "unsigned char", "encoding": "gzip"}
    lines = ["NRRD0005", *(f"{key}: {value}" for key, value in fields.items()), "", ""]
    voxels = gzip.compress(labels.tobytes(order="F"), COMPRESSION_LEVEL, mtime=0)
    return "\n".join(lines).encode("latin-1"), voxels


def _read_fields(path: Path) -> tuple[Fields, int]:
    """Fields by their key without spaces in lower case, as teem tells them apart; ``key:=value`` pairs are skipped."""
    lines, end = read_text_header(path, _END)
    parts = (line.partition(":") for line in lines[1:] if line.strip() and not line.startswith("#"))
    return unique_fields((_key(name), value) for name, _, value in parts if not value.startswith("=")), end


def _key(name: str) -> str:
    return name.replace(" ", "").lower()


def _check_layout(fields: Fields) -> None:
    """Only voxels inside the file: another file's name could lead anywhere on the machine that reads it."""
    if "datafile" in fields:
        raise NotAVolume("the voxels are in another file (data file); send one .nrrd that holds them")
    for key in ("lineskip", "byteskip"):
        one_of(key, fields.get(key, "0"), ["0"])
    one_of("encoding", required(fields, "encoding").lower(), [*_RAW, *_GZIPPED])
    _check_units("space units", _words(fields.get("spaceunits", "")))


def _words(text: str) -> list[str]:
    """Words, or quoted texts, which may be empty."""
    return [match["quoted"] or match["bare"] or "" for match in _WORD.finditer(text)]


def _check_units(name: str, units: list[str]) -> None:
    if not {unit.strip().lower() for unit in units} <= _MM_OR_UNKNOWN:
        raise SpacingInvalid(f"{name} are {shown(' '.join(units))}; mm is needed")


def _spatial_axes(fields: Fields) -> tuple[list[int], tuple[int, int, int]]:
    """Which axes of the file span space, and their lengths; an axis of another kind must have length 1."""
    sizes = axis_lengths(fields, "sizes", "dimension")
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(sizes)
    if len(kinds) != len(sizes):
        raise NotAVolume(f"kinds has {len(kinds)} words for {len(sizes)} axes")
    spatial = [axis for axis, kind in enumerate(kinds) if kind in _SPATIAL_KINDS]
    if any(sizes[axis] != 1 for axis in range(len(sizes)) if axis not in spatial):
        raise GeometryInvalid(
            f"the axes {tuple(sizes)} are of the kinds {shown(', '.join(kinds))}; one 3D volume of single numbers is"
            " needed",
            shape=sizes,
        )
    return spatial[:3], spatial_shape([sizes[axis] for axis in spatial])


def _dtype(fields: Fields) -> np.dtype[np.generic]:
    dtype = np.dtype(_DTYPE_OF[one_of("type", required(fields, "type").lower(), list(_DTYPE_OF))])
    if dtype.itemsize == 1:
        return dtype
    return dtype.newbyteorder(_ENDIANS[one_of("endian", required(fields, "endian").lower(), list(_ENDIANS))])


def _payload(fields: Fields, start: int, n_bytes: int) -> Payload:
    if fields["encoding"].lower() in _RAW:
        return Payload(start, n_bytes)
    return Payload(0, n_bytes, deflated_from=start)


def _geometry(fields: Fields) -> tuple[NDArray[np.float64], Triple | None]:
    """The affine (4, 4) in RAS mm, and the spacing that the header states for it."""
    affine = np.eye(4)
    spacing_mm = _spacings(fields)
    if "spacedirections" in fields:
        affine[:3, :3] = _directions(fields)
        if spacing_mm is None or all(map(math.isnan, spacing_mm)):  # as NRRD writes "no spacing"
            spacing_mm = column_lengths(affine)
    else:
        affine[:3, :3] = np.diag(usable_spacing(spacing_mm or (1.0, 1.0, 1.0)))
    if "spaceorigin" in fields:
        affine[:3, 3] = numbers("space origin", fields["spaceorigin"].strip("()"), _space_dimension(fields))[:3]
    return np.array([[*_ras_signs(fields), 1.0]]).T * affine, spacing_mm


def _spacings(fields: Fields) -> Triple | None:
    if "spacings" not in fields:
        return None
    axes = _spatial_axes(fields)[0]
    values = numbers("spacings", fields["spacings"], len(axis_lengths(fields, "sizes", "dimension")))
    _check_units("units", [unit for axis, unit in enumerate(_words(fields.get("units", ""))) if axis in axes])
    i_mm, j_mm, k_mm = (values[axis] for axis in axes)
    return (i_mm, j_mm, k_mm)


def _directions(fields: Fields) -> NDArray[np.float64]:
    """(3, 3): one column per spatial axis, in the file's space."""
    vectors = [match.group(1) for match in _VECTOR.finditer(fields["spacedirections"])]
    axes = _spatial_axes(fields)[0]
    if len(vectors) != len(axis_lengths(fields, "sizes", "dimension")) or any(vectors[axis] is None for axis in axes):
        raise GeometryInvalid(f"space directions are {shown(fields['spacedirections'])}; each spatial axis needs one")
    stated = np.array([numbers("space directions", vectors[axis], _space_dimension(fields)) for axis in axes])
    if stated[:, 3:].any():
        raise GeometryInvalid(f"the space directions mix space with a fourth axis: {stated.tolist()}")
    return stated[:, :3].T


def _space_dimension(fields: Fields) -> int:
    """4 where ITK has written one volume of a series; a space with a name has three."""
    return 4 if fields.get("spacedimension") == "4" and "space" not in fields else 3


def _ras_signs(fields: Fields) -> tuple[float, float, float]:
    space, dimension = fields.get("space", "lps").lower(), fields.get("spacedimension", "3")
    if space not in _RAS_SIGNS or dimension != str(_space_dimension(fields)):
        raise GeometryInvalid(
            f"space {shown(space)} (dimension {shown(dimension)}) has no anatomical directions; needed is one of "
            + ", ".join(_RAS_SIGNS)
        )
    return _RAS_SIGNS[space]


def _copied_grid(source: Path) -> Fields:
    fields, _ = _read_fields(source)
    spelled = {_key(name): name for name in ("space dimension", "space directions", "space origin", "space units")}
    spelled |= {_key(name): name for name in ("axis mins", "axis maxs")}
    return {spelled.get(key, key): value for key, value in fields.items() if key in _GRID_KEYS}


def _new_grid(stored: StoredGrid) -> Fields:
    columns = (_vector(stored.affine[:3, axis]) for axis in range(3))
    return {
        "dimension": "3",
        "space": "right-anterior-superior",
        "sizes": " ".join(map(str, stored.shape)),
        "space directions": " ".join(columns),
        "kinds": "domain domain domain",
        "space origin": _vector(stored.affine[:3, 3]),
    }


def _vector(values: NDArray[np.float64]) -> str:
    return "(" + ",".join(map(repr, values.tolist())) + ")"
