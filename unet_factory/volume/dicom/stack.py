"""Slices to one stack: of one size and orientation, one slice at each place, evenly spaced along their normal.

The spacing comes from the positions alone (PS3.3 C.7.6.2); SliceThickness and SpacingBetweenSlices say how the slices
were acquired, often something else, and are not read.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from unet_factory.domain.errors import (
    SlicesInconsistent,
    SlicesIrregular,
    SlicesMissing,
    SlicesTilted,
    SpacingInvalid,
)
from unet_factory.domain.image_choice import ANY_IMAGE, ImageChoice
from unet_factory.volume.dicom.choice import counted
from unet_factory.volume.dicom.slices import Slice
from unet_factory.volume.dicom.variants import chosen_images, one_kind
from unet_factory.volume.geometry import LPS_TO_RAS, MAX_SHEAR_DEG, usable_spacing

SAME_PLACE_MM = 0.005  # below any slice spacing, above the rounding of positions
MAX_JITTER = 0.02  # of the gap between slices, from an even spacing
NOTED_JITTER = 0.001  # below lies the rounding of positions to the micrometre
MAX_SIDEWAYS = 0.1  # of a pixel, from the line through the first and the last slice
_SAME_COSINES = 1e-3
_SAME_LENGTH = 1e-4  # relative
_WHOLE_GAPS = 0.1  # how far a gap may be from a whole number of gaps, to be called missing slices
_NAMED = 3


@dataclass(frozen=True, eq=False)
class Stack:
    """``slices`` along their normal. ``affine`` (4, 4) maps (column, row, slice) to RAS mm; ``spacing_mm`` in this
    order, None where the headers have no pixel spacing, with NaN across a single slice."""

    slices: tuple[Slice, ...]
    affine: NDArray[np.float64]
    spacing_mm: tuple[float, float, float] | None
    notes: tuple[str, ...]


def stacked(slices: Sequence[Slice], *, spacing_given: bool, choice: ImageChoice = ANY_IMAGE) -> Stack:
    """The one stack that the slices make, or those of them that ``choice`` names.

    Where the caller gave the spacing, gaps of any width are only noted.

    Raises:
        SlicesInconsistent: of several sizes, pixel spacings, orientations, frames of reference, patients or studies.
        SlicesAmbiguous: several slices at one place, other than clearly separate echoes; or no slice of ``choice``.
        SlicesTilted: the line through the positions leaves the normal.
        SlicesMissing, SlicesIrregular: the spacing is not even, and none was given.
        SpacingInvalid: a single slice or an unreadable PixelSpacing, and no spacing was given.
    """
    slices = chosen_images(slices, choice)
    _check_alike(slices)
    if not spacing_given:
        _check_pixel_spacings(slices)
    normal = slices[0].normal
    ordered = sorted(slices, key=lambda one: _mm(one, normal))
    chosen, note = one_kind(_places(ordered, normal))
    if len(chosen) == 1 and not spacing_given:
        raise SpacingInvalid(
            f"there is one slice only ({chosen[0].name}), so the spacing across it is unknown; give the spacing"
        )
    step, jitter_note = _step(chosen, normal, spacing_given=spacing_given)
    first = chosen[0]
    affine = np.eye(4)
    affine[:3, :2] = first.cosines.T * usable_spacing((*(first.pixel_mm or (1.0, 1.0)), 1.0))[:2]
    affine[:3, 2] = step
    affine[:3, 3] = first.position_lps_mm
    across_mm = float(np.linalg.norm(step)) if len(chosen) > 1 else math.nan
    return Stack(
        slices=tuple(chosen),
        affine=LPS_TO_RAS * affine,
        spacing_mm=None if first.pixel_mm is None else (*first.pixel_mm, across_mm),
        notes=tuple(text for text in (note, jitter_note) if text),
    )


def _check_pixel_spacings(slices: Sequence[Slice]) -> None:
    unreadable = [one for one in slices if one.pixel_fault]
    if unreadable:
        raise SpacingInvalid(f"{unreadable[0].pixel_fault} in {unreadable[0].name}; correct it, or give the spacing")


class _Alike(NamedTuple):
    """A property that all slices of a stack share: ``same`` compares two slices, ``text`` says one's value."""

    what: str
    same: Callable[[Slice, Slice], bool]
    text: Callable[[Slice], str]


_ALIKE = (
    _Alike("sizes (columns x rows)", lambda a, b: a.shape == b.shape, lambda one: _by(one.shape)),
    _Alike(
        "pixel spacings (column x row, mm)",
        lambda a, b: a.pixel_mm == b.pixel_mm or _close(a.pixel_mm, b.pixel_mm),
        lambda one: _by(one.pixel_mm or ()) or "none",
    ),
    _Alike(
        "orientations (normals)",
        lambda a, b: bool(np.abs(a.cosines - b.cosines).max() <= _SAME_COSINES),
        lambda one: "(" + ", ".join(f"{part:.3f}" for part in one.normal) + ")",
    ),
    _Alike(
        "frames of reference",
        lambda a, b: a.frame_of_reference == b.frame_of_reference,
        lambda one: "another" if one.frame_of_reference else "none",
    ),
    _Alike("patients", lambda a, b: a.patient_id == b.patient_id, lambda _: "another"),
    _Alike("studies", lambda a, b: a.study == b.study, lambda _: "another"),
)


def _check_alike(slices: Sequence[Slice]) -> None:
    for alike in _ALIKE:
        groups: list[list[Slice]] = []
        for one in slices:
            group = next((group for group in groups if alike.same(group[0], one)), None)
            if group is None:
                groups.append(group := [])
            group.append(one)
        if len(groups) > 1:
            groups.sort(key=len, reverse=True)
            listed = "; ".join(
                f"{alike.text(group[0])}: {counted(len(group), 'slice')}, such as {group[0].name}"
                for group in groups[:_NAMED]
            )
            raise SlicesInconsistent(
                f"the slices have {len(groups)} {alike.what}: {listed}; send slices of one of them",
                slices=[len(group) for group in groups],
            )


def _places(ordered: list[Slice], normal: NDArray[np.float64]) -> list[list[Slice]]:
    places: list[list[Slice]] = []
    for one in ordered:
        if places and _mm(one, normal) - _mm(places[-1][0], normal) < SAME_PLACE_MM:
            places[-1].append(one)
        else:
            places.append([one])
    return places


def _step(chosen: list[Slice], normal: NDArray[np.float64], *, spacing_given: bool) -> tuple[NDArray[np.float64], str]:
    """From one slice to the next (3,), LPS mm, and what was tolerated."""
    if len(chosen) == 1:
        return normal, ""
    places = np.stack([one.position_lps_mm for one in chosen])
    step: NDArray[np.float64] = (places[-1] - places[0]) / (len(chosen) - 1)
    _check_tilt(step, normal)
    even = places[0] + np.arange(len(chosen))[:, None] * step
    _check_sideways(chosen, places - even, normal)
    gap_mm = float(step @ normal)
    off = np.abs((places - even) @ normal) / gap_mm
    jitter = float(off.max())
    if jitter <= MAX_JITTER:
        noted = f"tolerated slices up to {jitter:.1%} of the gap of {gap_mm:g} mm off an even spacing"
        return step, noted if jitter > NOTED_JITTER else ""
    if not spacing_given:
        _refuse_gaps(chosen, (places - places[0]) @ normal, int(off.argmax()), jitter)
    return step, f"the slices are up to {jitter:.0%} of the gap off an even spacing; the given spacing overrules this"


def _check_tilt(step: NDArray[np.float64], normal: NDArray[np.float64]) -> None:
    along_mm = float(step @ normal)
    sideways_mm = float(np.linalg.norm(step - along_mm * normal))
    tilt_deg = math.degrees(math.atan2(sideways_mm, along_mm))
    if tilt_deg > MAX_SHEAR_DEG:
        raise SlicesTilted(
            f"from one slice to the next it is {along_mm:.3f} mm along the normal and {sideways_mm:.3f} mm sideways, "
            f"{tilt_deg:.2f} degrees (a tilted gantry?); allowed are {MAX_SHEAR_DEG:g}; resample the scan to a "
            "rectangular grid",
            tilt_deg=round(tilt_deg, 4),
        )


def _check_sideways(chosen: list[Slice], off: NDArray[np.float64], normal: NDArray[np.float64]) -> None:
    """``off`` (slices, 3): from where an even stack has each slice to where it is, LPS mm."""
    sideways_mm = np.linalg.norm(off - np.outer(off @ normal, normal), axis=1)
    worst = int(sideways_mm.argmax())
    allowed_mm = MAX_SIDEWAYS * min(chosen[0].pixel_mm or (1.0, 1.0))
    if sideways_mm[worst] > allowed_mm:
        raise SlicesIrregular(
            f"{chosen[worst].name} stands {sideways_mm[worst]:.3f} mm beside the line through the first and the last "
            f"slice; allowed are {allowed_mm:.3f}",
            sideways_mm=round(float(sideways_mm[worst]), 4),
        )


def _refuse_gaps(chosen: list[Slice], places_mm: NDArray[np.float64], worst: int, jitter: float) -> NoReturn:
    gaps_mm = np.diff(places_mm)
    unit_mm = float(np.quantile(gaps_mm, 0.25, method="lower"))
    in_units = gaps_mm / unit_mm
    missing = np.round(in_units).astype(int) - 1
    if missing.any() and np.all(np.abs(in_units - np.round(in_units)) <= _WHOLE_GAPS):
        raise SlicesMissing(
            f"{counted(int(missing.sum()), 'slice')} missing at a spacing of {unit_mm:g} mm: "
            + "; ".join(_hole(chosen, index, int(missing[index])) for index in np.flatnonzero(missing)[:_NAMED])
            + "; send them all, or give the spacing",
            missing=int(missing.sum()),
            spacing_mm=round(unit_mm, 4),
        )
    raise SlicesIrregular(
        f"the slices are unevenly spaced: gaps of {gaps_mm.min():.3f} to {gaps_mm.max():.3f} mm, and "
        f"{_at(chosen[worst])} is {jitter:.1%} of the mean gap off; tolerated are {MAX_JITTER:.0%}; resample the "
        "scan to an even spacing, or give the spacing",
        gaps_mm=[round(float(gap), 4) for gap in (gaps_mm.min(), gaps_mm.max())],
    )


def _hole(chosen: list[Slice], index: int, missing: int) -> str:
    return f"{missing} between {_at(chosen[index])} and {_at(chosen[index + 1])}"


def _at(one: Slice) -> str:
    return f"{one.name} at {_mm(one, one.normal):.2f} mm"


def _mm(one: Slice, normal: NDArray[np.float64]) -> float:
    """The place of a slice along the normal."""
    return float(one.position_lps_mm @ normal)


def _close(one: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    return (
        one is not None
        and other is not None
        and bool(np.allclose(one, other, rtol=_SAME_LENGTH, atol=0, equal_nan=True))
    )


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
