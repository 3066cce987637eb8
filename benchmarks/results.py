"""Results as files: JSON for each area, so that areas can be measured one at a time, and one page from all of them."""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.machine import Machine
from benchmarks.rows import Row
from unet_factory.domain.frozen import Frozen

_HEADING = """\
# Speed

Made by `make bench ARGS='--publish'`; a single part by `make bench ARGS='--only NAME --publish'`. Contestants take
turns in one process (A B, A B, ...), and a ratio is the median of the ratios of the rounds: it holds on a busy machine
too, while times in ms are only good beside others of the same part. *Value* is the median, with the quartiles. *Must*
bounds the ratio where there is one, else the value. *Before* was measured on a quiet machine, before any of this was
worked on. `make bench ARGS='--check'` fails when a bound is missed; with `--ratios`, as in continuous integration, only
when one on a ratio is.

Mind the load that each part was measured under: with several processes to a core, a time on the clock (jobs through
HTTP, starting, requests a second) is several times what it is on a quiet machine. No GPU was there to be measured.

In the pictures a bar ends at the share of its bound that a figure uses up, on a logarithmic axis; where nothing is
demanded, at the ratio. Left of the line is good.

The opponents are kept packages at their own settings. MONAI and nnU-Net get our own network at one fixed spacing, with
windows as large as nnU-Net would plan them; `make nnunet` installs nnU-Net in an environment of its own, and
`pip install openvino` OpenVINO. What is not installed is left out, and the page says so.

What is known to fall short, and why:

- *weights, paper size*: blocks of rows on own threads use both cores, and the tangents are taken while a block is in
  the cache. What is left: PyTorch's `addmv` does not fetch ahead, so on one thread it takes 1.8 times as long as
  reading, of which two thirds are waits for memory, and the tangents .4. No form of the product in PyTorch, NumPy,
  oneDNN or libraries of dot products is faster; numba is, but takes 208 MB and seconds at each start
  ([all that was tried](../decisions/024-making-weights.md)). Of heads stored in 16 bits, half of the time goes into
  widening them. The plain form takes about 2.5 times as long as reading, so .4 of it is the floor itself.
- *loading*: what is measured is a load into memory that the process has kept, as when a model is replaced. The first
  load of a worker also computes the digest, and takes fresh memory, whose pages the kernel clears first: at paper size
  it takes five to seven times as long as reading, unless another worker of the host has made a copy to map.
- *a job through HTTP*: what is left of a small job is CPU, more than half of it in the worker (its inference included)
  and a quarter in the gateway, and the hand-overs between processes. Waits for the disk (upload, label map and record
  are each synced before anybody is told) count where the disk is busy: putting down one of the two files, which syncs
  the file and its folder, took .55 ms on a quiet disk and 7 ms on one that others wrote to; more than half of the
  gateway's work on a small job was such a wait then. A write to the job store took .1 ms on the quiet one.
- *DICOM*: of writing the results, 28 % is pydicom saving the two files element by element, and 36 and 30 % are
  highdicom building report and segmentation. The headers are read twice, by the gateway, which refuses at once what is
  wrong, and by the worker; the search for keywords that pydicom repeats, a quarter of that, was taken out.
- *float32 with kept memory*, hippocampus and heart: just within the bound on a quiet machine, not on a busy one. In the
  hippocampus's window convolutions take 81 %, and norms 16: PyTorch sums their statistics one by one in double
  precision, and any faster sum changes the last bit now and then. What kept memory saves depends on how long the kernel
  takes to clear fresh pages: with two to three processes to a core, the same code had ratios from .76 to .83 within an
  hour, and of .77 to .81 for the heart.
- *a whole job*: the others run in process and from memory that is warm, ours through HTTP, the queue and the disk. At 1
  mm a scan of the hippocampus fits into one of the windows that nnU-Net would plan, so MONAI and nnU-Net need only a
  sixth of a second for it: twelve times less would be 14 ms for everything. At 2 mm the network alone takes 11 ms, and
  what a job costs beside inference (below, *a job through HTTP*) is more than the rest. On the heart four fifths of a
  job are inference. The scan is a little longer than a window, so two windows that overlap by six sevenths compute 1.75
  times its voxels; the others have 6.4 times as many voxels to segment, and compute in float32. That makes the 11 to 17
  times that were measured; without the second window it would be some 20, but windows as large as the scan are not what
  the models were validated with.
"""


class Results(Frozen):
    """What one area yielded."""

    area: str
    title: str
    machine: Machine
    rows: tuple[Row, ...]


def write(folder: Path, results: Results) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{results.area}.json").write_text(results.model_dump_json(indent=1) + "\n")


def read_all(folder: Path, order: Iterable[str]) -> list[Results]:
    """Of every area in ``order`` that was ever published."""
    paths = (folder / f"{name}.json" for name in order)
    return [_read(path) for path in paths if path.exists()]


def _read(path: Path) -> Results:
    return Results.model_validate_json(path.read_text())


def page(published: Iterable[Results], pictures: str) -> str:
    """``pictures``: the folder, as seen from the page, where each area has its picture."""
    return "\n".join(
        [_HEADING, *(f"{part(each)}\n![{each.title}]({pictures}/{each.area}.svg)\n" for each in published)]
    )


def part(results: Results) -> str:
    """One area as Markdown."""
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [
        f"## {results.title}",
        "",
        f"`make bench ARGS='--only {results.area}'` on {machine.cores} cores of {machine.cpu or 'an unknown CPU'}"
        f" (load {machine.load:g}), commit {machine.commit}, Python {machine.python}, {versions}.",
        "",
        "| what | value | quartiles | against | ratio | must | holds | before |",
        "|---|---|---|---|---|---|---|---|",
        *map(_line, results.rows),
    ]
    notes = [f"- *{row.name}*: {row.note}" for row in results.rows if row.note]
    return "\n".join([*lines, *([""] if notes else []), *notes, ""])


def _line(row: Row) -> str:
    value = "not measured" if row.value is None else f"{_number(row.value)} {row.unit}"
    spread = "" if row.spread is None else f"{_number(row.spread[0])} to {_number(row.spread[1])}"
    ratio = "" if row.ratio is None else _number(row.ratio)
    holds = {True: "yes", False: "**no**", None: ""}[row.holds]
    cells = (row.name, value, spread, row.against, ratio, str(row.must or ""), holds, row.before)
    return f"| {' | '.join(cells)} |"


def _number(figure: float) -> str:
    """Three significant digits, never in powers of ten."""
    if abs(figure) >= 100:
        return f"{figure:.0f}"
    return f"{figure:.3g}"
