"""What became of a scan, in one form for every way of segmenting it: for people, as JSON and as a table."""

import os
from collections.abc import Mapping, Sequence
from typing import Literal

from rich.table import Column, Table

from unet_factory.domain.budget import BudgetReport
from unet_factory.domain.frozen import Frozen
from unet_factory.domain.jobs import PolicyReport, Problem, Spacings
from unet_factory.domain.plausibility import Finding
from unet_factory_cli.failures import say
from unet_factory_cli.label_statistics import LabelStatistics

State = Literal["segmented", "kept", "failed"]

_MEGABYTE = 1e6


class Outcome(Frozen):
    """``kept``: the results were there already. ``labels`` only where statistics were asked for."""

    scan: str
    output: str
    state: State
    model: str | None = None
    checkpoint_digest: str | None = None
    device: str | None = None
    spacing: Spacings = Spacings()
    policy: PolicyReport | None = None
    budget: BudgetReport | None = None
    conditions: Mapping[str, float] = {}
    volumes_ml: Mapping[str, float] = {}
    implausible: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    timings_s: Mapping[str, float] = {}
    labels: tuple[LabelStatistics, ...] | None = None
    error: Problem | None = None

    @property
    def seconds(self) -> float:
        return sum(self.timings_s.values())


def tell(outcome: Outcome) -> None:
    """A succeeded segmentation in words; the model is always named, and nothing that was adjusted is left out."""
    volumes = ", ".join(f"{name} {ml:.2f} ml" for name, ml in outcome.volumes_ml.items())
    working = outcome.spacing.working
    at = "" if working is None else f" at {_spacing_text(working)} mm (R,A,S)"
    say(f"{outcome.output}: segmented{at} by {outcome.model} in {outcome.seconds:.2f} s; {volumes}")
    if outcome.conditions:
        say("made for " + ", ".join(f"{name}={value:g}" for name, value in outcome.conditions.items()))
    for note in outcome.notes:
        say(f"note: {note}")
    if outcome.policy is not None and outcome.policy.out_of_range:
        say(f"note: outside the trained range of {outcome.model}; the policy was {outcome.policy.outside}")
    if outcome.policy is not None and outcome.policy.reduced_memory:
        changes = ["in smaller windows"]
        changes += ["at a coarser spacing"] if outcome.policy.coarser_for_memory else []
        changes += ["on the CPU"] if outcome.policy.moved_to_cpu else []
        say(f"note: memory ran out; the scan was segmented {' and '.join(changes)}")
    if outcome.budget is not None:
        say(_budget_text(outcome.budget))


def warn(model: str | None, findings: Sequence[Finding], scan: str = "") -> None:
    about = f"{scan}: " if scan else ""
    for finding in findings:
        say(f"WARNING: {about}unlike the scans that {model} was trained on; do not rely on the result: {finding}")


def table_of(outcomes: Sequence[Outcome]) -> Table:
    """A row for each scan of a batch, named without the folder that they all lie in."""
    folder = os.path.commonpath([os.path.dirname(outcome.scan) for outcome in outcomes])  # noqa: PTH120 (texts)
    table = Table(
        Column("scan", overflow="fold"), "result", "model", "spacing (mm)", "seconds", "volumes, or the reason"
    )
    for outcome in outcomes:
        working = outcome.spacing.working
        table.add_row(
            os.path.relpath(outcome.scan, folder or "."),
            outcome.state,
            outcome.model or "",
            "" if working is None else _spacing_text(working),
            f"{outcome.seconds:.2f}" if outcome.timings_s else "",
            _last_cell(outcome),
        )
    return table


def _last_cell(outcome: Outcome) -> str:
    if outcome.error is not None:
        return f"{outcome.error.title}: {outcome.error.detail}" if outcome.error.detail else outcome.error.title
    volumes = ", ".join(f"{name} {ml:.2f} ml" for name, ml in outcome.volumes_ml.items())
    return f"{volumes}; NOT PLAUSIBLE" if outcome.implausible else volumes


def _budget_text(budget: BudgetReport) -> str:
    allowed = [f"{budget.seconds:g} s"] if budget.seconds is not None else []
    allowed += [f"{budget.bytes / _MEGABYTE:.0f} MB"] if budget.bytes is not None else []
    text = f"budget of {' and '.join(allowed)} {'kept' if budget.kept else 'NOT kept'}"
    text += f": predicted {budget.predicted_seconds:.2f} s and {budget.predicted_bytes / _MEGABYTE:.0f} MB"
    if budget.spent_seconds is None or budget.spent_bytes is None:
        return text
    return f"{text}, took {budget.spent_seconds:.2f} s and {budget.spent_bytes / _MEGABYTE:.0f} MB"


def _spacing_text(spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{mm:g}" for mm in spacing_mm)
