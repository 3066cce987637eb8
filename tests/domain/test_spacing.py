"""Spacings: snapped once, exactly, and never outside what a policy allows."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from unet_factory.domain.errors import SpacingInvalid, SpacingOutOfRange, VolumeTooLarge
from unet_factory.domain.spacing import (
    OutsidePolicy,
    SnappedSpacing,
    SpacingGrid,
    SpacingPlan,
    check_working_size,
    parse_spacing,
    plan_spacing,
    resampled_shape,
    validate_spacing,
)

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


def test_a_grid_by_hand() -> None:
    grid = SpacingGrid.from_mm(0.05, [(0.5, 3.5), (0.6, 3.6), (1.0, 10.0)])
    assert (grid.step_um, grid.min_um, grid.max_um) == (50, (500, 600, 1000), (3500, 3600, 10_000))
    assert (grid.step_mm, grid.range_mm) == (0.05, ((0.5, 3.5), (0.6, 3.6), (1.0, 10.0)))
    assert grid.snap((0.001, 0.51, 2.04)) == SnappedSpacing(50, 500, 2050)
    assert grid.clamp(SnappedSpacing(450, 3650, 5000)) == SnappedSpacing(500, 3600, 5000)
    ends = [SnappedSpacing(*grid.min_um), SnappedSpacing(*grid.max_um)]
    assert all(grid.contains(end) for end in ends)
    for axis in range(3):
        for end, beyond in zip(ends, (-50, 50), strict=True):
            moved = [um + beyond * (place == axis) for place, um in enumerate(end)]
            assert not grid.contains(SnappedSpacing(*moved))
            assert grid.clamp(SnappedSpacing(*moved)) == end


@pytest.mark.parametrize("fields", [{"step_um": 1}, {"min_um": (1, 2, 3), "max_um": (1, 2, 3)}])
def test_a_step_of_a_micrometre_and_a_range_of_one_spacing_are_allowed(fields: dict[str, object]) -> None:
    SpacingGrid.model_validate({"step_um": 1, "min_um": (5, 5, 5), "max_um": (9, 9, 9), **fields})


def test_numbers_become_a_spacing_in_their_order() -> None:
    assert validate_spacing(iter((1, 0.5, 1000))) == (1.0, 0.5, 1000.0)
    assert parse_spacing("1,0.5,1000") == (1.0, 0.5, 1000.0)
    assert SnappedSpacing(1000, 500, 2050).mm == (1.0, 0.5, 2.05)
    assert str(SnappedSpacing(1000, 500, 2050)) == "1,0.5,2.05"
    for axis in range(3):
        for wrong in (0.0, math.nextafter(1000, math.inf)):
            with pytest.raises(SpacingInvalid):
                validate_spacing([wrong if place == axis else 1.0 for place in range(3)])


def test_a_resolved_spacing_tells_whether_it_was_trained() -> None:
    assert GRID.resolve((1.02, 1.0, 1.0), OutsidePolicy.REJECT) == (SnappedSpacing(1000, 1000, 1000), False)
    assert GRID.resolve((0.46, 1.0, 1.0), OutsidePolicy.CLAMP) == (SnappedSpacing(500, 1000, 1000), True)
    assert GRID.resolve((0.46, 1.0, 1.0), OutsidePolicy.EXTRAPOLATE) == (SnappedSpacing(450, 1000, 1000), True)


def test_extents_keep_the_field_of_view() -> None:
    """To the nearest voxel, halves up, one at least; an axis on its own."""
    assert resampled_shape((10, 11, 1), (1.0, 1.0, 1.0), (2.0, 2.0, 9.0)) == (5, 6, 1)
    assert resampled_shape((10, 12, 7), (1.0, 0.5, 3.0), (0.5, 3.0, 3.0)) == (20, 2, 7)


def test_the_voxels_at_the_working_spacing_are_what_counts() -> None:
    """10 x 10 x 10 of 2 mm are 20 x 10 x 5 at 1 x 2 x 4 mm."""
    plan = SpacingPlan((2.0, 2.0, 2.0), (1.0, 2.0, 4.0), SnappedSpacing(1000, 2000, 4000), out_of_range=False)
    check_working_size((10, 10, 10), plan, 1000)
    with pytest.raises(VolumeTooLarge, match=r"\(20, 10, 5\), that is 1000 voxels; at most 999 are allowed") as caught:
        check_working_size((10, 10, 10), plan, 999)
    assert caught.value.details == {"working_spacing_mm": [1.0, 2.0, 4.0], "voxels": 1000, "allowed": 999}


def test_a_plan_holds_what_was_found_and_what_is_done() -> None:
    plan = plan_spacing((0.46, 1.02, 4.0), GRID, OutsidePolicy.CLAMP)
    assert plan == SpacingPlan((0.46, 1.02, 4.0), (0.5, 1.02, 4.0), SnappedSpacing(500, 1000, 4000), out_of_range=True)
    assert plan.resampled
    wanted = plan_spacing((0.46, 1.02, 4.0), GRID, OutsidePolicy.REJECT, (0.5, 1.0, 2.0))
    assert wanted.working_mm == (0.5, 1.02, 2.0)
    assert not wanted.out_of_range
