"""The Dice to be expected at a voxel spacing, as measured on the validation split: stored in the manifest as a few
numbers, for quotes, results and pages.
"""

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Literal

from pydantic import Field

from unet_factory.domain.frozen import Frozen
from unet_factory.domain.spacing import SpacingMm

_DECIMALS = 4
_Finite = Field(allow_inf_nan=False)
AXIS_PAIRS = tuple(combinations_with_replacement(range(3), 2))
"""The order of the quadratic terms: RR, RA, RS, AA, AS, SS."""


class ExpectedDice(Frozen):
    """Mean Dice over a model's labels and the validation scans at a spacing, and the interval that is expected to hold
    the Dice of nine new scans in ten.
    """

    dice: float
    low: float
    high: float


class DiceBySpacing(Frozen):
    """A smooth fit: log(1 - Dice) is a polynomial of the logarithms of the voxel's edges in mm.

    ``constant``, ``linear`` (R, A, S) and ``quadratic`` (RR, RA, RS, AA, AS, SS) are its coefficients; those that its
    ``form`` lacks are 0. ``measured_mm``: the lowest and highest spacing per axis; beyond them the value at the closest
    spacing is taken. A new scan's error 1 - Dice is expected to lie within ``error_factor`` times, or divided by, the
    fitted one. ``fit_error``: root mean square over the measured spacings, in Dice, each left out of the fit in turn.
    """

    split: Literal["validation"] = "validation"
    scans: int = Field(ge=1)
    patients: int = Field(ge=1)
    spacings: int = Field(ge=1)
    form: str
    measured_mm: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    constant: float = _Finite
    linear: tuple[float, float, float]
    quadratic: tuple[float, float, float, float, float, float]
    error_factor: float = Field(ge=1, allow_inf_nan=False)
    fit_error: float = Field(ge=0, allow_inf_nan=False)

    def expected_dice(self, spacing_ras_mm: SpacingMm) -> ExpectedDice:
        """At a working spacing in mm, order (R, A, S)."""
        clamped = (min(max(mm, low), high) for mm, (low, high) in zip(spacing_ras_mm, self.measured_mm, strict=True))
        coefficients = (self.constant, *self.linear, *self.quadratic)
        error = math.exp(
            math.fsum(c * term for c, term in zip(coefficients, polynomial_terms([*clamped]), strict=True))
        )
        dice, low, high = (
            round(1 - min(1.0, error * factor), _DECIMALS) for factor in (1.0, self.error_factor, 1 / self.error_factor)
        )
        return ExpectedDice(dice=dice, low=low, high=high)


def polynomial_terms(spacing_ras_mm: Sequence[float]) -> list[float]:
    """The constant, linear and quadratic terms of the edges' logarithms, in the order of the coefficients."""
    logs = [math.log(mm) for mm in spacing_ras_mm]
    return [1.0, *logs, *(logs[first] * logs[second] for first, second in AXIS_PAIRS)]
