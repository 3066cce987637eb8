"""Conditions: snapped once, refused where the model was not trained, the same text back and forth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from unet_factory.domain.conditions import (
    Condition,
    choose_conditions,
    conditions_text,
    named_conditions,
    parse_conditions,
    snap_conditions,
)
from unet_factory.domain.errors import ConditionInvalid
from unet_factory.domain.jobs import GenerationRequest
from unet_factory.platform.weight_cache import weight_key

TIME = Condition(name="inversion_time_ms", minimum=400, maximum=1605, step=10, default=900)
FIELD = Condition(name="field_strength_t", minimum=0.5, maximum=3, step=0.1, default=1.5)


@given(st.floats(400, 1605))
def test_snapping_is_idempotent_and_moves_by_half_a_step_at_most(value: float) -> None:
    snapped = TIME.snap(value)
    assert TIME.snap(snapped) == snapped
    assert TIME.minimum <= snapped <= TIME.maximum
    assert abs(snapped - value) <= TIME.step / 2


def test_what_is_not_given_has_its_default_and_the_order_is_the_model_s() -> None:
    assert snap_conditions((TIME, FIELD), {}) == (900, 1.5)
    assert snap_conditions((TIME, FIELD), {"field_strength_t": 2.96}) == (900, 3.0)
    assert choose_conditions((FIELD,), {"inversion_time_ms": 700, "field_strength_t": 1.0}) == (1.0,)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"echo_time_ms": 30.0}, "no condition echo_time_ms; it has inversion_time_ms, field_strength_t"),
        ({"field_strength_t": 7.0}, r"field_strength_t is 7; it must be in \[0.5, 3\]"),
        ({"field_strength_t": float("nan")}, "field_strength_t is nan"),
    ],
)
def test_what_the_model_does_not_know_is_refused(given: dict[str, float], complaint: str) -> None:
    with pytest.raises(ConditionInvalid, match=complaint):
        snap_conditions((TIME, FIELD), given)


def test_a_model_without_conditions_says_so() -> None:
    with pytest.raises(ConditionInvalid, match="it has no conditions"):
        snap_conditions((), {"field_strength_t": 3})


@given(st.floats(0.5, 3), st.floats(400, 1605))
def test_text_and_values_are_the_same(field: float, time: float) -> None:
    values = named_conditions(
        (TIME, FIELD), snap_conditions((TIME, FIELD), {"field_strength_t": field, TIME.name: time})
    )
    assert parse_conditions(conditions_text(values)) == values


@pytest.mark.parametrize("text", ["", "900", "a=b", "a=1,a=2", "a=1,", "a=nan", "a=1e999"])
def test_text_that_is_no_list_of_conditions_is_refused(text: str) -> None:
    with pytest.raises(ConditionInvalid, match="expected NAME=NUMBER"):
        parse_conditions(text)


@pytest.mark.parametrize("change", [{"default": 5}, {"minimum": 3}, {"step": 0}, {"name": "Field Strength"}])
def test_a_condition_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Condition.model_validate(FIELD.model_dump() | change)


def test_networks_for_other_conditions_have_other_keys() -> None:
    plain = GenerationRequest(model="m", checkpoint_digest="d", snapped_um=(1000, 1000, 1000))
    keys = {weight_key(plain.model_copy(update={"conditions": c})) for c in ((), (900.0,), (910.0,), (900.0, 1.5))}
    assert len(keys) == 4
