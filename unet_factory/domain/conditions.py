"""What a network may depend on besides the spacing: known properties of an acquisition (paper, section 5, outlook).

A model names its conditions in its manifest, in an order that holds everywhere. Values are snapped once, at the edge,
so that equal conditions are equal cache keys.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Self

from pydantic import Field, FiniteFloat, model_validator

from unet_factory.domain.errors import ConditionInvalid
from unet_factory.domain.frozen import Frozen
from unet_factory.domain.numbers import parse_number

SnappedConditions = tuple[float, ...]
"""One value per condition of a model, in the manifest's order, on its grid."""


class Condition(Frozen):
    """One property: ``name`` ends in its unit, as in ``field_strength_t``; the range was seen in training, from
    ``minimum`` in steps of ``step``. ``default`` applies when the caller gives none.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    minimum: FiniteFloat
    maximum: FiniteFloat
    step: FiniteFloat = Field(gt=0)
    default: FiniteFloat

    @model_validator(mode="after")
    def _default_lies_in_range(self) -> Self:
        if not self.minimum < self.maximum:
            raise ValueError(f"{self.name}: minimum {self.minimum:g} must be below maximum {self.maximum:g}")
        if not self.minimum <= self.default <= self.maximum:
            raise ValueError(f"{self.name}: default {self.default:g} must be in [{self.minimum:g}, {self.maximum:g}]")
        return self

    def snap(self, value: float) -> float:
        """The nearest value on the grid.

        Raises:
            ConditionInvalid: not finite, or outside the trained range; no policy reaches beyond it.
        """
        if not (math.isfinite(value) and self.minimum <= value <= self.maximum):
            raise ConditionInvalid(
                f"condition {self.name} is {value:g}; it must be in [{self.minimum:g}, {self.maximum:g}]",
                condition=self.name,
                requested=str(value),
                allowed=[self.minimum, self.maximum],
            )
        steps = math.floor((value - self.minimum) / self.step + 0.5)
        return min(self.maximum, round(self.minimum + steps * self.step, 9))

    def fraction(self, value: float) -> float:
        """0 at the minimum, 1 at the maximum."""
        return (value - self.minimum) / (self.maximum - self.minimum)


def snap_conditions(conditions: Sequence[Condition], given: Mapping[str, float]) -> SnappedConditions:
    """A value for every condition: what was given, snapped, else its default.

    Raises:
        ConditionInvalid: a name that is not a condition of the model, or a value outside its range.
    """
    known = [condition.name for condition in conditions]
    if unknown := sorted(set(given) - set(known)):
        raise ConditionInvalid(
            f"the model has no condition {', '.join(name[:64] for name in unknown)}; "
            + (f"it has {', '.join(known)}" if known else "it has no conditions"),
            requested=[name[:64] for name in unknown],
            allowed=known,
        )
    return tuple(condition.snap(given.get(condition.name, condition.default)) for condition in conditions)


def choose_conditions(conditions: Sequence[Condition], known: Mapping[str, float]) -> SnappedConditions:
    """As :func:`snap_conditions`, from all that is known of a scan: much of it may not be a condition of the model."""
    names = {condition.name for condition in conditions}
    return snap_conditions(conditions, {name: value for name, value in known.items() if name in names})


def named_conditions(conditions: Sequence[Condition], values: SnappedConditions) -> dict[str, float]:
    return {condition.name: value for condition, value in zip(conditions, values, strict=True)}


def parse_conditions(text: str) -> dict[str, float]:
    """Read ``"inversion_time_ms=900,field_strength_t=3"``.

    Raises:
        ConditionInvalid: not such a list, or a name is given twice.
    """
    values: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.partition("=")
        try:
            value = parse_number(number)
        except ValueError:
            value = math.nan
        if not equals or not math.isfinite(value) or name.strip() in values:
            raise ConditionInvalid(
                f"conditions {text[:100]!r}: expected NAME=NUMBER, separated by commas, each name once, "
                "such as inversion_time_ms=900",
                requested=text[:100],
            )
        values[name.strip()] = value
    return values


def conditions_text(values: Mapping[str, float]) -> str:
    """What :func:`parse_conditions` reads."""
    return ",".join(f"{name}={value:.12g}" for name, value in values.items())
