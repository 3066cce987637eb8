"""What is plausible: within the margin of what was seen, and nothing is judged by what is not known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.fixtures.judged_models import seen, span
from unet_factory.domain.errors import Implausible
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.plausibility import (
    Finding,
    ImplausiblePolicy,
    Seen,
    Span,
    field_of_view_findings,
    refuse_implausible,
    volume_findings,
)

WHAT = seen(span(1, 3), span(20, 60))  # with the margin of 2: 0.5 to 6 ml, 10 to 120 mm
TOO_MUCH = Finding(what="volume_ml", label="anterior", value=79, expected=(0.5, 6))


@pytest.mark.parametrize(
    ("anterior_ml", "plausible"), [(0, False), (0.49, False), (0.5, True), (2, True), (6, True), (6.01, False)]
)
def test_a_volume_is_plausible_up_to_the_margin(anterior_ml: float, plausible: bool) -> None:
    found = volume_findings(WHAT, {"anterior": anterior_ml, "posterior": 1.0})
    expected = Finding(what="volume_ml", label="anterior", value=anterior_ml, expected=(0.5, 6))
    assert found == (() if plausible else (expected,))


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(1, 16, (0.25, 64)), (5, 5, (2.5, 10)), (0, 7, (0, 14)), (2, 8, (1, 16))]
)
def test_what_varies_much_may_lie_farther_out(low: float, high: float, expected: tuple[float, float]) -> None:
    assert WHAT.expected(span(low, high)) == pytest.approx(expected)


@given(st.tuples(*[st.integers(1, 400)] * 3), st.tuples(*[st.floats(0.1, 9)] * 3))
def test_each_axis_is_judged_by_its_extent(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    found = field_of_view_findings(WHAT, shape, spacing)
    extents = dict(zip("RAS", (round(n * mm, 4) for n, mm in zip(shape, spacing, strict=True)), strict=True))
    assert {finding.axis: finding.value for finding in found} == {
        axis: extent for axis, extent in extents.items() if extent < 10 or extent > 120
    }


def test_a_model_that_does_not_say_what_it_saw_judges_nothing(tiny_manifest: Manifest) -> None:
    before = tiny_manifest.model_dump_json(exclude={"seen"})
    assert Manifest.model_validate_json(before).seen is None
    assert volume_findings(None, {"anterior": 1e9}) == field_of_view_findings(None, (1, 1, 1), (1, 1, 1)) == ()


def test_only_reject_refuses_and_names_value_and_range() -> None:
    for policy in ImplausiblePolicy:
        refuse_implausible(policy, (), "tiny")
    for policy in (ImplausiblePolicy.NOTE, ImplausiblePolicy.WITHHOLD):
        refuse_implausible(policy, (TOO_MUCH,), "tiny")
    with pytest.raises(Implausible, match=r"tiny.*is 79 ml, expected 0\.5 to 6 ml.*implausible=note") as raised:
        refuse_implausible(ImplausiblePolicy.REJECT, (TOO_MUCH,), "tiny")
    assert raised.value.details == {"implausible": [TOO_MUCH.model_dump(mode="json")]}


def test_what_was_seen_must_make_sense(tiny_manifest: Manifest) -> None:
    with pytest.raises(ValidationError, match="must be in increasing order"):
        Span(low=2, median=1, high=3)
    for wrong in ({"margin": 0.9}, {"scans": 0}, {"margin": float("inf")}):
        with pytest.raises(ValidationError):
            Seen.model_validate(WHAT.model_dump() | wrong)
    other = WHAT.model_copy(update={"volumes_ml": {"elbow": span(1, 2)}})
    with pytest.raises(ValidationError, match="names elbow; the labels are anterior, posterior"):
        Manifest.model_validate(tiny_manifest.model_dump() | {"seen": other.model_dump()})
