"""Whether a scan and its result look like what a model was trained on.

A network segments whatever it is given: a model of the hippocampus finds 79 ml of it in a whole head. The manifest says
what training saw; a field of view or a volume far from that is a finding, and the caller says what follows from it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from unet_factory.domain.errors import Implausible
from unet_factory.domain.frozen import Frozen
from unet_factory.domain.spacing import SpacingMm

_DECIMALS = 4

Axis = Literal["R", "A", "S"]
AXES: tuple[Axis, ...] = ("R", "A", "S")


class ImplausiblePolicy(StrEnum):
    """What follows from findings. Each does what those before it do: ``note`` them in the job and its results,
    ``withhold`` the results from archives, ``reject`` the scan or fail the job.
    """

    NOTE = "note"
    WITHHOLD = "withhold"
    REJECT = "reject"


class Span(Frozen):
    """A quantity over many scans: its 0.5th, 50th and 99.5th percentiles."""

    low: float = Field(allow_inf_nan=False)
    median: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.median <= self.high:
            raise ValueError(
                f"percentiles must be in increasing order; they are {self.low:g}, {self.median:g}, {self.high:g}"
            )
        return self


class Seen(Frozen):
    """What training and validation saw, over so many ``scans``; the test split stays unseen.

    ``volumes_ml`` per label name; ``field_of_view_mm`` along R, A and S. Both are judged: what lies beyond ``low`` and
    ``high`` by more than the square root of their ratio, or ``margin`` where that is more, is not plausible. So what
    varies much between patients may lie farther out (Tukey's fences, in logarithms).

    For the record alone: ``extents_mm`` of each label, from end to end along R, A and S, over the scans that show it;
    empty where training did not tell. ``intensities``: the 1st, 50th and 99th percentile of a scan's voxels after
    z-scoring.
    """

    scans: int = Field(ge=1)
    margin: float = Field(ge=1, allow_inf_nan=False)
    volumes_ml: dict[str, Span]
    extents_mm: dict[str, tuple[Span, Span, Span]] = Field(default_factory=dict)
    field_of_view_mm: tuple[Span, Span, Span]
    intensities: tuple[Span, Span, Span]

    def expected(self, span: Span) -> tuple[float, float]:
        """The lowest and the highest plausible value."""
        factor = self.margin if span.low <= 0 else max(self.margin, math.sqrt(span.high / span.low))
        return round(span.low / factor, _DECIMALS), round(span.high * factor, _DECIMALS)


class Finding(Frozen):
    """A value that is not plausible: a ``label``'s volume in ml, or the field of view along an ``axis`` in mm."""

    what: Literal["volume_ml", "field_of_view_mm"]
    label: str | None = None
    axis: Axis | None = None
    value: float
    expected: tuple[float, float] = Field(description="the lowest and the highest plausible value")

    def __str__(self) -> str:
        low, high = self.expected
        subject, unit = (
            (f"volume of {self.label}", "ml")
            if self.what == "volume_ml"
            else (f"field of view along {self.axis}", "mm")
        )
        return f"{subject} is {self.value:.4g} {unit}, expected {low:.4g} to {high:.4g} {unit}"


def field_of_view_findings(
    seen: Seen | None, shape_ras: Sequence[int], spacing_ras_mm: SpacingMm
) -> tuple[Finding, ...]:
    """What is not plausible of a scan's extent; nothing where it is not known what training saw.

    Args:
        shape_ras: voxels (r, a, s).
    """
    if seen is None:
        return ()
    found = (
        Finding(what="field_of_view_mm", axis=axis, value=round(voxels * mm, _DECIMALS), expected=seen.expected(span))
        for axis, voxels, mm, span in zip(AXES, shape_ras, spacing_ras_mm, seen.field_of_view_mm, strict=True)
    )
    return _outside(found)


def volume_findings(seen: Seen | None, volumes_ml: Mapping[str, float]) -> tuple[Finding, ...]:
    """What is not plausible of a result's volumes (by label name); nothing where it is not known what training saw."""
    if seen is None:
        return ()
    found = (
        Finding(what="volume_ml", label=label, value=round(volumes_ml[label], _DECIMALS), expected=seen.expected(span))
        for label, span in seen.volumes_ml.items()
    )
    return _outside(found)


def refuse_implausible(policy: ImplausiblePolicy, findings: Sequence[Finding], model: str) -> None:
    """
    Raises:
        Implausible: there are findings, and the policy is ``reject``.
    """
    if findings and policy is ImplausiblePolicy.REJECT:
        raise Implausible(
            f"unlike what {model} was trained on: {in_words(findings)}; send a scan of the kind that it "
            "was trained on, or choose implausible=note",
            implausible=[finding.model_dump(mode="json") for finding in findings],
        )


def in_words(findings: Iterable[Finding]) -> str:
    return "; ".join(map(str, findings))


def _outside(found: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(finding for finding in found if not finding.expected[0] <= finding.value <= finding.expected[1])
