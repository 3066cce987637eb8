"""Spacings: snapped once, exactly, and never outside what a policy allows."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from unet_factory.domain.errors import SpacingInvalid, SpacingOutOfRange
from unet_factory.domain.spacing import OutsidePolicy, SnappedSpacing, SpacingGrid, parse_spacing, validate_spacing

GRID = SpacingGrid.from_mm(0.05, [(0.5, 3.5), (0.5, 3.5), (1.0, 10.0)])

millimetres = st.floats(0.001, 100.0)
spacings = st.tuples(millimetres, millimetres, millimetres)


@given(spacings)
def test_snapping_lands_on_the_grid_and_is_idempotent(spacing: tuple[float, float, float]) -> None:
    snapped = GRID.snap(spacing)
    assert all(um > 0 and um % GRID.step_um == 0 for um in snapped)
    assert GRID.snap(snapped.mm) == snapped
    for um, mm in zip(snapped, spacing, strict=True):
        assert abs(um - mm * 1000) <= GRID.step_um / 2 + 1e-6 or um == GRID.step_um


@given(spacings, spacings)
def test_snapping_keeps_order(first: tuple[float, float, float], second: tuple[float, float, float]) -> None:
    lower = tuple(map(min, first, second))
    upper = tuple(map(max, first, second))
    assert all(a <= b for a, b in zip(GRID.snap(lower), GRID.snap(upper), strict=True))


@given(spacings)
def test_clamping_stays_inside_and_moves_nothing_that_is_inside(spacing: tuple[float, float, float]) -> None:
    snapped = GRID.snap(spacing)
    clamped = GRID.clamp(snapped)
    assert GRID.contains(clamped)
    assert (clamped == snapped) == GRID.contains(snapped)


@given(spacings)
def test_policies(spacing: tuple[float, float, float]) -> None:
    snapped = GRID.snap(spacing)
    inside = GRID.contains(snapped)
    assert GRID.resolve(spacing, OutsidePolicy.CLAMP) == (GRID.clamp(snapped), not inside)
    assert GRID.resolve(spacing, OutsidePolicy.EXTRAPOLATE) == (snapped, not inside)
    if inside:
        assert GRID.resolve(spacing, OutsidePolicy.REJECT).snapped == snapped
    else:
        with pytest.raises(SpacingOutOfRange, match=r"\[0\.5, 3\.5\] x \[0\.5, 3\.5\] x \[1, 10\]"):
            GRID.resolve(spacing, OutsidePolicy.REJECT)


@given(spacings)
def test_text_form_round_trips(spacing: tuple[float, float, float]) -> None:
    snapped = GRID.snap(spacing)
    assert GRID.snap(parse_spacing(str(snapped))) == snapped


@pytest.mark.parametrize(
    "text", ["", "1", "1,2", "1,2,3,4", "1,2,x", "1,,2", "0,1,1", "-1,1,1", "nan,1,1", "inf,1,1", "1_0,1,1"]
)
def test_bad_text_names_what_was_sent(text: str) -> None:
    with pytest.raises(SpacingInvalid) as caught:
        parse_spacing(text)
    assert any(part in str(caught.value) for part in (repr(text), "three numbers", "finite"))


def test_non_finite_numbers_are_refused() -> None:
    for value in (math.nan, math.inf, -math.inf, 0.0, -1.0, 1e9):
        with pytest.raises(SpacingInvalid):
            validate_spacing((1.0, value, 1.0))


@pytest.mark.parametrize(
    ("step", "low", "high"), [(0.05, 0.52, 3.5), (0.05, 0.5, 3.51), (0.05, 3.5, 0.5), (0.0, 0.5, 3.5), (0.05, 0.0, 1.0)]
)
def test_a_range_off_the_grid_is_refused(step: float, low: float, high: float) -> None:
    with pytest.raises((ValidationError, ZeroDivisionError)):
        SpacingGrid.from_mm(step, [(low, high)] * 3)


def test_ties_go_to_the_coarser_spacing() -> None:
    assert GRID.snap((1.025, 1.0749, 1.075)) == SnappedSpacing(1050, 1050, 1100)
