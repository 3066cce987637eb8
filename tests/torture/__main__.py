"""``make torture``: run the factory under faults, check the history, print or publish the figures."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from tests.torture.figures import figures_of, page
from tests.torture.history import read_history
from tests.torture.run import torture

PAGE = Path("docs/results/torture.md")
OUTPUT = Path("build/torture")


def main(
    minutes: Annotated[float, typer.Option(help="How long faults go on.")] = 3.0,
    hours: Annotated[float, typer.Option(help="The same in hours.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Decides which faults come, and in which order.")] = 1,
    retention_s: Annotated[float, typer.Option(help="After this long jobs expire, and clients lose patience.")] = 180.0,
    publish: Annotated[bool, typer.Option("--publish", help=f"Write {PAGE}.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for the history and the roles' logs.")] = OUTPUT,
    check: Annotated[Path | None, typer.Option(help="Only check the history in this file.")] = None,
) -> None:
    """Exit status 1 if a promise was broken."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as if by Ctrl-C: nothing is left mounted
    history = check or torture(output, (hours * 60 or minutes) * 60, seed, retention_s)
    events = read_history(history)
    found = figures_of(events)
    text = page(found, events)
    if publish:
        PAGE.write_text(text)
    typer.echo(text)
    if found.violations:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
