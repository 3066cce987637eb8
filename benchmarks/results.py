"""Results as files: JSON for each area, so that areas can be measured one at a time, and one page from all of them."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationInfo, field_validator

from benchmarks.machine import Machine
from benchmarks.rows import Row
from benchmarks.shortfalls import Shortfall, held, reasons_of
from unet_factory.domain.frozen import Frozen

_READING = """\
## How to read the rows

Made by `make bench ARGS='--publish'`; a single part by `make bench ARGS='--only NAME --publish'`. Contestants take
turns in one process (A B, A B, ...), and a ratio is the median of the ratios of the rounds: it holds on a busy machine
too, while times in ms are only good beside others of the same part. *Value* is the median, with the quartiles. *Aim* is
what is demanded: of the ratio where there is one, else of the value. *Before* was measured on a quiet machine, before
any of this was worked on. `make bench ARGS='--check'` fails when an aim is missed, so that nothing gets slower
unnoticed; with `--ratios`, as in continuous integration, only when one on a ratio is. A row that is known to fall short
of its aim is *held to* the nearest that was reached instead, with room for noise. *Faster host*: the same figure on
another one, at the commit that its results in `docs/results/speed/faster-host/` name.

Mind the load that each part was measured under: with several processes to a core, a time on the clock (jobs through
HTTP, starting, requests a second) is several times what it is on a quiet machine.

In the pictures a bar ends at the share of its aim that a figure uses up, on a logarithmic axis; where nothing is
demanded, at the ratio. Left of the line is good. A short black line is what a row that falls short is held to.

The opponents are kept packages at their own settings. MONAI and nnU-Net get our own network at one fixed spacing, with
windows as large as nnU-Net would plan them; `make nnunet` installs nnU-Net in an environment of its own, and
`pip install openvino` OpenVINO. What is not installed is left out, and the page says so.

Three kinds of rows reach their aims, with a limit:

- *loading*: what is measured is a load into memory that the process has kept, as when a model is replaced. The first
  load of a worker also computes the digest, and takes fresh memory, whose pages the kernel clears first: at paper size
  it takes five to seven times as long as reading, unless another worker of the host has made a copy to map.
- *a job through HTTP*: on the faster host only, and a quiet one; within an hour, with little else running, a tiny job
  took from 14 to 18 ms beyond its inference, and from 45 to 53 were done in a second. What is left of it is CPU, more
  than half of it in the worker (its inference included) and a quarter in the gateway, and the hand-overs between
  processes. Upload, label map and record are each synced before anybody is told: putting down one of the two files took
  .55 ms on a quiet disk, and 7 ms on one that others wrote to.
- *float32 with kept memory*, hippocampus and heart: just within the bound on the faster host where it is quiet. In the
  hippocampus's window convolutions take 81 %, and norms 16: PyTorch sums their statistics one by one in double
  precision, and any faster sum changes the last bit now and then. What kept memory saves depends on how long the kernel
  takes to clear fresh pages: with two to three processes to a core, the same code had ratios from .76 to .83 within an
  hour, and of .77 to .81 for the heart.
"""


class Results(Frozen):
    """What one area yielded, each row held to what :mod:`benchmarks.shortfalls` says now."""

    area: str
    title: str
    machine: Machine
    rows: tuple[Row, ...]

    @field_validator("rows")
    @classmethod
    def _hold(cls, rows: tuple[Row, ...], info: ValidationInfo) -> tuple[Row, ...]:
        return tuple(held(info.data["area"], row) for row in rows)


def write(folder: Path, results: Results) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{results.area}.json").write_text(results.model_dump_json(indent=1) + "\n")


def read_all(folder: Path, order: Iterable[str]) -> list[Results]:
    """Of every area in ``order`` that was ever published."""
    paths = (folder / f"{name}.json" for name in order)
    return [_read(path) for path in paths if path.exists()]


def _read(path: Path) -> Results:
    return Results.model_validate_json(path.read_text())


Key = tuple[str, str, int]
"""A row's area, its name, and how many rows before it have that name."""

Rows = Mapping[Key, Row]
"""Those of a host."""


def rows_of(published: Iterable[Results]) -> Rows:
    found: dict[Key, Row] = {}
    for each in published:
        before: Counter[str] = Counter()
        for row in each.rows:
            found[each.area, row.name, before[row.name]] = row
            before[row.name] += 1
    return found


def page(published: Iterable[Results], pictures: str, other: Rows) -> str:
    """``pictures``: the folder, as seen from the page, where each area has its picture; ``other``: of another host."""
    published = list(published)
    parts = (f"{part(each, other)}\n![{each.title}]({pictures}/{each.area}.svg)\n" for each in published)
    return "\n".join(["# Speed\n", *_verdict(published, other), _READING, *parts])


def _verdict(published: list[Results], other: Rows) -> Iterator[str]:
    """How many aims are not reached, these first, and why."""
    demanded = {key: row for key, row in rows_of(published).items() if row.aim is not None}
    missed = {key: row for key, row in demanded.items() if row.reached is False}
    unmeasured = {key: row for key, row in demanded.items() if row.reached is None}
    elsewhere = sum(key in other and other[key].reached is True for key in missed)
    also = f" on the host below; a faster one reaches {elsewhere} of them" if elsewhere else ""
    also += f"; {len(unmeasured)} more could not be measured" if unmeasured else ""
    yield f"**{len(missed)} of {len(demanded)} aims are not reached**{also}.\n"
    if missed or unmeasured:
        titles = {each.area: each.title for each in published}
        yield "## What is not reached\n"
        yield "| part | what | against | figure | faster host | aim | held to | why |"
        yield "|---|---|---|---|---|---|---|---|"
        for key, row in (missed | unmeasured).items():
            yield _short(titles[key[0]], row, other.get(key))
        yield ""
    if reasons := reasons_of(missed.values()):
        yield "What is known to fall short, and why:\n"
        yield from map(_reason, reasons)
        yield ""


def _short(title: str, row: Row, other: Row | None) -> str:
    held_to = "its aim" if row.must == row.aim else str(row.must)
    why = row.note if row.figure is None else row.reason
    cells = (title, row.name, row.against, _figure(row), _elsewhere(other), str(row.aim), held_to, why)
    return f"| {' | '.join(cells)} |"


def _reason(shortfall: Shortfall) -> str:
    text = f"- *{shortfall.title}*: {shortfall.why}"
    return textwrap.fill(text, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def part(results: Results, other: Rows = MappingProxyType({})) -> str:
    """One area as Markdown."""
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [
        f"## {results.title}",
        "",
        f"`make bench ARGS='--only {results.area}'` on {machine.cores} cores of {machine.cpu or 'an unknown CPU'}"
        f" (load {machine.load:g}), commit {machine.commit}, Python {machine.python}, {versions}.",
        "",
        "| what | value | quartiles | against | ratio | faster host | aim | reached | held to | before |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_line(row, other.get(key)) for key, row in rows_of([results]).items()),
    ]
    notes = [f"- *{row.name}*: {row.note}" for row in results.rows if row.note]
    return "\n".join([*lines, *([""] if notes else []), *notes, ""])


def _line(row: Row, other: Row | None) -> str:
    value = "not measured" if row.value is None else f"{_number(row.value)} {row.unit}"
    spread = "" if row.spread is None else f"{_number(row.spread[0])} to {_number(row.spread[1])}"
    ratio = "" if row.ratio is None else _number(row.ratio)
    reached = {True: "yes", False: "**no**", None: ""}[row.reached]
    held_to = "" if row.must == row.aim else f"{row.must}{', **missed**' if row.holds is False else ''}"
    figure = _elsewhere(other)
    cells = (row.name, value, spread, row.against, ratio, figure, str(row.aim or ""), reached, held_to, row.before)
    return f"| {' | '.join(cells)} |"


def _elsewhere(other: Row | None) -> str:
    return "" if other is None or other.figure is None else _figure(other)


def _figure(row: Row) -> str:
    """What the aim is about."""
    if row.figure is None:
        return "not measured"
    return _number(row.figure) if row.ratio is not None else f"{_number(row.figure)} {row.unit}"


def _number(figure: float) -> str:
    """Three significant digits, never in powers of ten."""
    if abs(figure) >= 100:
        return f"{figure:.0f}"
    return f"{figure:.3g}"
