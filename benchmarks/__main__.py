"""``make bench``: run areas of benchmarks, print or publish their rows, and check what they are held to."""

import logging
import warnings
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.machine import this_machine
from benchmarks.plots import draw
from benchmarks.results import Results, page, part, read_all, rows_of, write
from benchmarks.rows import AREAS, Row

PAGE = Path("docs/results/speed.md")
FASTER = "faster-host"

# In the order of the page; each module registers its areas when it is imported.
_MODULES = (
    *("generation", "inference", "gpu", "engines", "whole", "networks", "jobs"),
    *("reading", "upkeep", "workers", "start", "many_models", "quote", "page", "training"),
)


def main(
    only: Annotated[
        str, typer.Option(help="Areas, separated by commas; by default all that take minutes together.")
    ] = "",
    check: Annotated[bool, typer.Option("--check", help="Fail when a row misses what it is held to.")] = False,
    ratios: Annotated[bool, typer.Option("--ratios", help="Check ratios alone: they hold on other machines.")] = False,
    publish: Annotated[bool, typer.Option("--publish", help=f"Write the rows, their pictures and {PAGE}.")] = False,
    faster: Annotated[
        bool, typer.Option("--faster", help="Publish as the figures of a faster host, in a column of their own.")
    ] = False,
    only_page: Annotated[
        bool, typer.Option("--page", help=f"Measure nothing; write {PAGE} and its pictures from what was published.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each row.")] = False,
) -> None:
    """Measure, area by area."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    for module in _MODULES:
        import_module(f"benchmarks.{module}")
    if only_page:
        _write_page()
        return
    missed: list[Row] = []
    for name in _wanted(only):
        results = _run(name)
        typer.echo("\n".join(row.model_dump_json() for row in results.rows) if json else part(results))
        missed += [row for row in results.rows if row.holds is False and (row.ratio is not None or not ratios)]
        if publish:
            _publish(results, FASTER if faster else "")
        _tell_of_aims(results.rows)
    for row in missed:
        typer.echo(f"missed: {row.name} is {row.figure:g}, and is held to {row.must}", err=True)
    if check and missed:
        raise typer.Exit(1)


def _tell_of_aims(rows: Iterable[Row]) -> None:
    """Of the rows that are held to less than their aim: which miss it, and which no longer do."""
    for row in rows:
        if row.reason and row.reached is not None:
            told = f"reaches its aim here; unless that depends on the host, hold it to that again: {row.reason}"
            missed = f"does not reach its aim; see *{row.reason}* on {PAGE}"
            typer.echo(f"{row.name} is {row.figure:g}, {row.aim} {told if row.reached else missed}", err=True)


def _publish(results: Results, host: str) -> None:
    write(PAGE.with_suffix("") / host, results)
    _write_page()


def _write_page() -> None:
    """Of all that was ever published, with its pictures."""
    folder = PAGE.with_suffix("")
    published = read_all(folder, AREAS)
    for each in published:
        draw(each, folder / f"{each.area}.svg")
    PAGE.write_text(page(published, folder.name, rows_of(read_all(folder / FASTER, AREAS))))


def _wanted(only: str) -> list[str]:
    names = (
        [name.strip() for name in only.split(",")]
        if only
        else [name for name, area in AREAS.items() if not area.on_demand]
    )
    unknown = sorted(set(names) - set(AREAS))
    if unknown:
        raise typer.BadParameter(f"there is no area {', '.join(unknown)}; there are {', '.join(AREAS)}")
    return names


def _run(name: str) -> Results:
    area = AREAS[name]
    return Results(area=name, title=area.title, machine=this_machine(), rows=tuple(area.run()))


if __name__ == "__main__":
    typer.run(main)
