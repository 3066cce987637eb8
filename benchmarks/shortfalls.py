"""Aims that are not reached: why, and what ``make bench ARGS='--check'`` holds their rows to meanwhile.

This is the one place where a row is held to less than its aim. A bound here is the nearest that was reached, with room
for noise; whoever comes nearer tightens it, and whoever reaches an aim deletes the row here, and the whole entry with
its last row. ``make bench ARGS='--page'`` puts a change here on the page without measuring anything.
"""

from collections.abc import Iterable
from typing import NamedTuple

from pydantic import Field

from benchmarks.rows import Bound, Row, at_least, at_most
from unet_factory.domain.frozen import Frozen


class Nearest(NamedTuple):
    """``row``: its name; ``against``: how what it is against begins, where several rows have that name."""

    row: str
    must: Bound
    against: str = ""


class Shortfall(Frozen):
    """Why rows of an area miss their aims; ``title`` is what they name as their reason."""

    area: str
    title: str
    why: str
    nearest: tuple[Nearest, ...] = Field(min_length=1)

    def bound_of(self, area: str, row: Row) -> Bound | None:
        """What ``row`` is held to; None for other rows."""
        if area != self.area or row.aim is None:
            return None
        return next(
            (one.must for one in self.nearest if one.row == row.name and row.against.startswith(one.against)), None
        )


def held(area: str, row: Row) -> Row:
    """``row``, held to the nearest that was reached where a reason is known, else to its aim."""
    found = ((shortfall.title, must) for shortfall in SHORTFALLS if (must := shortfall.bound_of(area, row)))
    reason, must = next(found, ("", row.aim))
    return Row.model_validate({**row.model_dump(), "must": must, "reason": reason})


def reasons_of(rows: Iterable[Row]) -> list[Shortfall]:
    """Those that ``rows`` name, in the order of the list."""
    named = {row.reason for row in rows}
    return [shortfall for shortfall in SHORTFALLS if shortfall.title in named]


SHORTFALLS: tuple[Shortfall, ...] = (
    Shortfall(
        area="generation",
        title="weights, paper size",
        nearest=(
            Nearest("weights, paper size", at_most(4.2)),
            Nearest("weights, paper size, heads stored in 16 bits", at_most(3.1)),
            Nearest("weights, paper size, against the plain form", at_most(1.0)),
        ),
        why="""\
blocks of rows on own threads use both cores, and the tangents are taken while a block is in the cache. What is left:
PyTorch's `addmv` does not fetch ahead, so on one thread it takes 1.8 times as long as reading, of which two thirds are
waits for memory, and the tangents .4. No form of the product in PyTorch, NumPy, oneDNN or libraries of dot products is
faster; numba is, but takes 208 MB and seconds at each start
([all that was tried](../decisions/024-making-weights.md)). Of heads stored in 16 bits, half of the time goes into
widening them. The plain form takes about 2.5 times as long as reading, so .4 of it is the floor itself.""",
    ),
    Shortfall(
        area="http",
        title="a job through HTTP",
        nearest=(
            Nearest("16 x 16 x 16, beyond inference", at_most(20)),
            Nearest("small jobs with one worker", at_least(38)),
        ),
        why="""\
what is left of a small job is CPU, more than half of it in the worker (its inference included) and a quarter in the
gateway, and the hand-overs between processes. Waits for the disk (upload, label map and record are each synced before
anybody is told) count where the disk is busy: putting down one of the two files, which syncs the file and its folder,
took .55 ms on a quiet disk and 7 ms on one that others wrote to; more than half of the gateway's work on a small job
was such a wait then. A write to the job store took .1 ms on the quiet one.""",
    ),
    Shortfall(
        area="http",
        title="DICOM",
        nearest=(Nearest("DICOM in, SEG and SR out, beyond inference", at_most(155)),),
        why="""\
of writing the results, 28 % is pydicom saving the two files element by element, and 36 and 30 % are highdicom building
report and segmentation. The headers are read twice, by the gateway, which refuses at once what is wrong, and by the
worker; the search for keywords that pydicom repeats, a quarter of that, was taken out.""",
    ),
    Shortfall(
        area="whole",
        title="a whole job",
        nearest=(
            Nearest("hippocampus, 2x2x2 mm: from the upload to the label map", at_most(0.95), "our own"),
            Nearest("hippocampus, 2x2x2 mm: from the upload to the label map", at_most(0.46), "MONAI"),
            Nearest("hippocampus, 2x2x2 mm: from the upload to the label map", at_most(0.41), "nnU-Net"),
            Nearest("hippocampus, 2x2x2 mm: memory", at_most(0.1), "MONAI"),
            Nearest("hippocampus, 2x2x2 mm: memory", at_most(0.1), "nnU-Net"),
            Nearest("heart, 3x3x8 mm: from the upload to the label map", at_most(0.3), "our own"),
            Nearest("heart, 3x3x8 mm: from the upload to the label map", at_most(0.115), "MONAI"),
            Nearest("heart, 3x3x8 mm: from the upload to the label map", at_most(0.075), "nnU-Net"),
            Nearest("heart, 3x3x8 mm: memory", at_most(0.37), "nnU-Net"),
        ),
        why="""\
the others run in process and from memory that is warm, ours through HTTP, the queue and the disk. At 1 mm a scan of the
hippocampus fits into one of the windows that nnU-Net would plan, so MONAI and nnU-Net need only a sixth of a second for
it: twelve times less would be 14 ms for everything. At 2 mm the network alone takes 11 ms, and what a job costs beside
inference (below, *a job through HTTP*) is more than the rest. On the heart four fifths of a job are inference. The scan
is a little longer than a window, so two windows that overlap by six sevenths compute 1.75 times its voxels; the others
have 6.4 times as many voxels to segment, and compute in float32. That makes the 11 to 17 times that were measured;
without the second window it would be some 20, but windows as large as the scan are not what the models were validated
with.""",
    ),
)
