"""``make scale``: simulate large installations from what jobs cost, and write the tables of ``docs/scale.md``."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.scale.costs import Costs, measure
from benchmarks.scale.report import capacity_table, costs_table, efficiency_table, shared_table, sizing_table
from benchmarks.scale.shared import SharedRuns, measure_shared

PAGE = Path("docs/scale.md")
COSTS = Path("docs/results/scale/costs.json")
SHARED = Path("docs/results/scale/shared.json")


def main(
    measured: Annotated[bool, typer.Option("--measure", help=f"Measure the costs again, into {COSTS}.")] = False,
    shared: Annotated[bool, typer.Option("--shared", help=f"Measure shared scans again, into {SHARED}.")] = False,
) -> None:
    """Everything but the costs is simulated, with fixed seeds, so the same costs give the same page."""
    if measured:
        COSTS.parent.mkdir(parents=True, exist_ok=True)
        COSTS.write_text(measure().model_dump_json(indent=2) + "\n")
    if shared:
        SHARED.write_text(measure_shared().model_dump_json(indent=2) + "\n")
    costs = Costs.model_validate_json(COSTS.read_text())
    machine = costs.machine
    where = (
        f"Mean of {costs.jobs} jobs each on one core of {machine.cpu} (load {machine.load}), commit {machine.commit}, "
        f"torch {machine.versions['torch']}.",
        "",
    )
    page = PAGE.read_text()
    for name, lines in {
        "costs": (*where, *costs_table(costs)),
        "capacity": capacity_table(costs.kinds),
        "efficiency": efficiency_table(costs.kinds),
        "sizing": sizing_table(costs.kinds),
        "shared": shared_table(SharedRuns.model_validate_json(SHARED.read_text())),
    }.items():
        page = _replaced(page, name, lines)
    PAGE.write_text(page)


def _replaced(page: str, name: str, lines: Iterable[str]) -> str:
    """The page with what stands between the marks of this name replaced."""
    begin, end = f"<!-- {name}: written by `make scale` -->\n", f"<!-- end of {name} -->"
    found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    assert found.search(page), f"{PAGE} has no marks of {name}"
    text = begin + "\n" + "\n".join(lines) + "\n\n" + end
    return found.sub(lambda _: text, page)


if __name__ == "__main__":
    typer.run(main)
