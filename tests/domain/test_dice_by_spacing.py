"""What the manifest says of the Dice to expect is evaluated without torch, within bounds and where it was measured."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_factory.domain.dice_by_spacing import DiceBySpacing
from unet_factory.domain.manifest import Manifest

MM = st.floats(0.01, 100)
FITTED = DiceBySpacing(
    scans=10,
    patients=5,
    spacings=47,
    form="each axis",
    measured_mm=((1, 5), (1, 5), (5, 10)),
    constant=-2.0,
    linear=(0.2, 0.1, 0.0),
    quadratic=(0.3, 0.0, 0.0, 0.0, -0.1, 0.05),
    error_factor=1.8,
    fit_error=0.01,
)


@given(r=MM, a=MM, s=MM)
def test_it_lies_within_its_interval_and_beyond_the_measured_at_its_edge(r: float, a: float, s: float) -> None:
    found = FITTED.expected_dice((r, a, s))
    assert 0 <= found.low <= found.dice <= found.high <= 1
    inside = (min(max(r, 1), 5), min(max(a, 1), 5), min(max(s, 5), 10))
    assert found == FITTED.expected_dice(inside)
    log_r, log_a, log_s = (math.log(mm) for mm in inside)
    error = math.exp(-2 + 0.2 * log_r + 0.1 * log_a + 0.3 * log_r * log_r - 0.1 * log_a * log_s + 0.05 * log_s * log_s)
    assert found.dice == pytest.approx(max(0, 1 - error), abs=1e-4)
    assert 1 - found.high == pytest.approx(min(1, error / 1.8), abs=1e-4)
    assert 1 - found.low == pytest.approx(min(1, error * 1.8), abs=1e-4)


def test_a_manifest_carries_it_and_one_from_before_has_none(tiny_manifest: Manifest) -> None:
    told = tiny_manifest.model_copy(update={"dice_by_spacing": FITTED})
    assert Manifest.model_validate_json(told.model_dump_json()) == told
    before = tiny_manifest.model_dump_json(exclude={"dice_by_spacing"})
    assert Manifest.model_validate_json(before).dice_by_spacing is None
