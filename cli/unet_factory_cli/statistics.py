"""The file of ``--statistics``: what was found in each scan, and how."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from unet_factory.platform.atomic_files import whole_file
from unet_factory_cli.failures import MISUSED, CommandFailed
from unet_factory_cli.label_statistics import LabelStatistics
from unet_factory_cli.outcome import Outcome

SUFFIXES = (".json", ".csv")


def check_statistics_file(path: Path) -> None:
    """
    Raises:
        CommandFailed: its name says no format that there is, or its folder does not exist.
    """
    if path.suffix not in SUFFIXES:
        raise CommandFailed(f"{path} must end with {' or '.join(SUFFIXES)}", MISUSED)
    if not path.parent.is_dir():
        raise CommandFailed(f"there is no folder {path.parent} for {path.name}", MISUSED)


def write_statistics(path: Path, outcomes: Sequence[Outcome]) -> None:
    """JSON with a list of outcomes, or CSV with a row for each label of each scan; whole or not at all."""
    with whole_file(path) as partial:
        if path.suffix == ".json":
            partial.write_bytes(TypeAdapter(list[Outcome]).dump_json(list(outcomes), indent=2) + b"\n")
            return
        with partial.open("w", newline="") as file:
            rows = [row for outcome in outcomes for row in _rows(outcome)]
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


_OF_A_LABEL = tuple(LabelStatistics.model_fields)
_COLUMNS = (
    *(
        "scan",
        "output",
        "state",
        "model",
        "checkpoint_digest",
        "device",
        "spacing_r_mm",
        "spacing_a_mm",
        "spacing_s_mm",
    ),
    *("working_r_mm", "working_a_mm", "working_s_mm"),
    *("outside", "out_of_range", "resampled", "implausible", "seconds"),
    *_OF_A_LABEL,
    "error",
)


def _rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    policy, spacing = outcome.policy, outcome.spacing
    common: dict[str, Any] = {
        **outcome.model_dump(include={"scan", "output", "state", "model", "checkpoint_digest", "device"}),
        **dict(zip(("spacing_r_mm", "spacing_a_mm", "spacing_s_mm"), spacing.native or (), strict=False)),
        **dict(zip(("working_r_mm", "working_a_mm", "working_s_mm"), spacing.working or (), strict=False)),
        **({} if policy is None else policy.model_dump(mode="json", include={"outside", "out_of_range", "resampled"})),
        "implausible": "; ".join(map(str, outcome.implausible)),
        "seconds": round(outcome.seconds, 3) if outcome.timings_s else None,
        "error": outcome.error and outcome.error.detail,
    }
    for label in outcome.labels or ():
        yield common | label.model_dump()
    if not outcome.labels:
        yield common
