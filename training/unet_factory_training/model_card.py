"""The parts of a model card that commands write: what stands between two marks."""

from collections.abc import Sequence
from pathlib import Path


def fill_marked(card: Path, mark: str, rows: Sequence[Sequence[str]], below: str = "") -> None:
    """Put a Markdown table, whose first row is its heading, between ``<!-- MARK -->`` and ``<!-- /MARK -->``,
    and Markdown text ``below`` it.

    Raises:
        ValueError: the card lacks the marks.
    """
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, found_start, rest = card.read_text().partition(start)
    _, found_end, after = rest.partition(end)
    if not (found_start and found_end):
        raise ValueError(f"{card} has no lines {start} and {end}")
    heading, *others = rows
    table = "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *others))
    text = f"{table}\n\n{below}" if below else table
    card.write_text(f"{before}{start}\n{text}\n{end}{after}")
