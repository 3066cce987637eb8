"""From a header's statements to one spacing and one orientation, or to an error that names the contradiction."""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from unet_factory.domain.errors import GeometryInvalid, SpacingAmbiguous, SpacingInvalid
from unet_factory.domain.spacing import SpacingMm, validate_spacing
from unet_factory.volume.header import Grid, StoredVolume, Triple

SPACING_TOLERANCE = 1e-3  # relative; above the rounding of float32 headers and of spacings printed with four digits
MAX_SHEAR_DEG = 1.0  # above the rounding of oblique headers; a tilted CT gantry has 5 to 30
LPS_TO_RAS = np.array([[-1.0], [-1.0], [1.0], [1.0]])  # factors of an affine's rows
_SINGULAR_DETERMINANT = 1e-3  # of the unit column vectors
_KEPT_AFFINES = 64
_LEADS_TO = ("LR", "PA", "IS")

_Value = TypeVar("_Value")
_AxesAndFlips = tuple[tuple[int, int, int], tuple[int, int, int]]


def trusted_grid(stored: StoredVolume, spacing_ras_mm: SpacingMm | None) -> Grid:
    """The grid that the header describes without contradiction, or the given spacing along the header's axes.

    Raises:
        SpacingInvalid: the declared, computed or given spacing is missing or not three positive finite numbers.
        SpacingAmbiguous: the affine and the declared spacing disagree, and no spacing is given.
        GeometryInvalid: the affine is not finite, singular or sheared.
    """
    given = None if spacing_ras_mm is None else validate_spacing(spacing_ras_mm)
    if given is None:
        _check_declared_spacing(stored)
    check_affine(stored.affine, f"the affine ({stored.affine_source})")
    if given is None:
        _check_agreement(stored)
    affine = stored.affine if given is None else _with_spacing(stored.affine, given)
    return Grid(
        affine=affine,
        spacing_ras_mm=given or validate_spacing(in_ras_order(column_lengths(affine), affine)),
        orientation=_orientation(affine),
        shape_ras=in_ras_order(stored.shape, affine),
    )


def check_affine(affine: NDArray[np.float64], name: str = "the affine") -> None:
    """Raise GeometryInvalid unless ``affine`` (4, 4) is finite and its three axes stand on each other."""
    if not np.isfinite(affine).all():
        raise GeometryInvalid(f"{name} is not finite: {_rows(affine)}", affine=_rows(affine))
    with np.errstate(all="ignore"):
        directions = affine[:3, :3] / column_lengths(affine)
        determinant = abs(float(np.linalg.det(directions)))
    if not determinant > _SINGULAR_DETERMINANT:  # not even NaN, as from a column of zeros
        raise GeometryInvalid(f"{name} is singular: {_rows(affine)}", affine=_rows(affine))
    for one, other in itertools.combinations(range(3), 2):
        _check_right_angle(directions, one, other)


def column_lengths(affine: NDArray[np.float64]) -> Triple:
    """The spacing (i, j, k) in mm that ``affine`` (4, 4) implies."""
    with np.errstate(over="ignore"):
        i_mm, j_mm, k_mm = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return (i_mm, j_mm, k_mm)


def in_ras_order(values: tuple[_Value, _Value, _Value], affine: NDArray[np.float64]) -> tuple[_Value, _Value, _Value]:
    """Reorder one value per stored axis (i, j, k) to (r, a, s)."""
    ordered = dict(zip(_axes_and_flips(affine)[0], values, strict=True))
    return (ordered[0], ordered[1], ordered[2])


def as_stored(data_ras: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    """``data_ras`` (r, a, s) seen along the stored axes (i, j, k): a view, so writing to it fills ``data_ras``."""
    axes, flips = _axes_and_flips(affine)
    return data_ras.transpose(axes)[tuple(slice(None, None, flip) for flip in flips)]


def usable_spacing(declared_mm: Triple) -> Triple:
    """``declared_mm`` with 1 for values that are not lengths: directions survive for a caller who gives the spacing."""
    i_mm, j_mm, k_mm = (mm if _is_length(mm) else 1.0 for mm in declared_mm)
    return (i_mm, j_mm, k_mm)


def _axes_and_flips(affine: NDArray[np.float64]) -> _AxesAndFlips:
    """For each stored axis the closest axis of RAS+ (0, 1, 2), and 1 or -1 for its direction along it."""
    return _axes_and_flips_of(affine.astype(np.float64).tobytes())


@lru_cache(maxsize=_KEPT_AFFINES)
def _axes_and_flips_of(affine: bytes) -> _AxesAndFlips:
    """Asked for ten times a scan; nibabel decomposes the matrix each time."""
    (i, j, k), flips = nib.orientations.io_orientation(np.frombuffer(affine).reshape(4, 4)).astype(int).T.tolist()
    return (i, j, k), (flips[0], flips[1], flips[2])


def _orientation(affine: NDArray[np.float64]) -> str:
    """Such as RAS or LPI: where each stored axis leads."""
    return "".join(_LEADS_TO[axis][flip > 0] for axis, flip in zip(*_axes_and_flips(affine), strict=True))


def _check_declared_spacing(stored: StoredVolume) -> None:
    declared = stored.declared_spacing_mm
    if declared is None:
        raise SpacingInvalid(f"the header has no {stored.spacing_source}, so the spacing is unknown; give the spacing")
    if not all(_is_length(mm) for mm in declared):
        raise SpacingInvalid(
            f"{stored.spacing_source} says {_by(declared)} mm (the file's axis order); every axis must be finite and "
            "above 0, or give the spacing",
            declared_mm=[str(mm) for mm in declared],
        )


def _check_agreement(stored: StoredVolume) -> None:
    assert stored.declared_spacing_mm is not None
    declared_mm = in_ras_order(stored.declared_spacing_mm, stored.affine)
    affine_mm = in_ras_order(column_lengths(stored.affine), stored.affine)
    if not all(map(_agree, affine_mm, declared_mm)):
        raise SpacingAmbiguous(
            f"{stored.affine_source} says {_by(affine_mm)} mm but {stored.spacing_source} says {_by(declared_mm)} mm "
            "(R,A,S); give the spacing to decide",
            affine_mm=list(affine_mm),
            declared_mm=list(declared_mm),
            affine_source=stored.affine_source,
            declared_source=stored.spacing_source,
        )


def _check_right_angle(directions: NDArray[np.float64], one: int, other: int) -> None:
    cosine = float(np.clip(directions[:, one] @ directions[:, other], -1, 1))
    angle_deg = math.degrees(math.acos(cosine))
    if abs(angle_deg - 90) > MAX_SHEAR_DEG:
        raise GeometryInvalid(
            f"the grid is sheared: axes {one} and {other} meet at {angle_deg:.2f} degrees, allowed is "
            f"90 +- {MAX_SHEAR_DEG:g}; resample the scan to a rectangular grid",
            angle_deg=round(angle_deg, 4),
        )


def _with_spacing(affine: NDArray[np.float64], spacing_ras_mm: SpacingMm) -> NDArray[np.float64]:
    """``affine`` with columns of the given lengths; the first voxel stays where it is."""
    axes, _ = _axes_and_flips(affine)
    scaled = affine.copy()
    scaled[:3, :3] *= np.array([spacing_ras_mm[axis] for axis in axes]) / column_lengths(affine)
    return scaled


def _agree(computed_mm: float, declared_mm: float) -> bool:
    return abs(computed_mm - declared_mm) <= SPACING_TOLERANCE * declared_mm


def _is_length(mm: float) -> bool:
    return math.isfinite(mm) and mm > 0


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _rows(affine: NDArray[np.float64]) -> str:
    return "[" + ", ".join("[" + ", ".join(f"{value:g}" for value in row) + "]" for row in affine[:3]) + "]"
