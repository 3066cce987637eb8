"""Aims that are not reached: why, and what ``make bench ARGS='--check'`` holds their rows to meanwhile.

This is the one place where a row is held to less than its aim. A bound here is the nearest that was reached, with room
for noise; whoever comes nearer tightens it, and whoever reaches an aim deletes the row here, and the whole entry with
its last row. What only the slower of two hosts misses is here too; there some ratios still waver beyond their bounds.
``make bench ARGS='--page'`` puts a change here on the page without measuring anything.
"""

from collections.abc import Iterable
from typing import NamedTuple

from pydantic import Field

from benchmarks.rows import Bound, Row, at_least, at_most
from unet_factory.domain.frozen import Frozen


class Nearest(NamedTuple):
    """``row``: its name; ``against``: how what it is against begins, where several rows have that name."""

    area: str
    row: str
    must: Bound
    against: str = ""


class Shortfall(Frozen):
    """Why rows miss their aims; ``title`` is what they name as their reason."""

    title: str
    why: str
    nearest: tuple[Nearest, ...] = Field(min_length=1)

    def bound_of(self, area: str, row: Row) -> Bound | None:
        """What ``row`` is held to; None for other rows."""
        if row.aim is None:
            return None
        of_name = (one for one in self.nearest if (one.area, one.row) == (area, row.name))
        return next((one.must for one in of_name if row.against.startswith(one.against)), None)


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
        title="weights, paper size",
        nearest=(Nearest("generation", "weights, paper size, against the plain form", at_most(0.7)),),
        why="""\
the compiled kernel takes 1.1 to 1.2 times as long as reading the heads once, and the plain form, one linear layer for
each tensor, 2.3 times. Two fifths of that would be less than the reading itself
([how weights are made](../decisions/024-making-weights.md)).""",
    ),
    Shortfall(
        title="a whole job",
        nearest=(
            Nearest("whole", "hippocampus, 2x2x2 mm: from the upload to the label map", at_most(0.85), "our own"),
            Nearest("whole", "hippocampus, 2x2x2 mm: from the upload to the label map", at_most(0.34), "MONAI"),
            Nearest("whole", "hippocampus, 2x2x2 mm: from the upload to the label map", at_most(0.32), "nnU-Net"),
            Nearest("whole", "heart, 3x3x8 mm: from the upload to the label map", at_most(0.3), "our own"),
            Nearest("whole", "heart, 3x3x8 mm: from the upload to the label map", at_most(0.1), "MONAI"),
            Nearest("whole", "heart, 3x3x8 mm: from the upload to the label map", at_most(0.07), "nnU-Net"),
        ),
        why="""\
the others run in process and from memory that is warm, ours through HTTP, the queue and the disk. At 1 mm a scan of the
hippocampus fits into one of the windows that nnU-Net would plan, so MONAI and nnU-Net need only a seventh of a second
for it: twelve times less would be 12 ms for everything. At 2 mm the network alone takes 11 ms, and what a job costs
beside inference (below, *a job through HTTP*) is more than the rest. On the heart four fifths of a job are inference.
The scan is a little longer than a window, so two windows that overlap by six sevenths compute 1.75 times its voxels;
the others have 6.4 times as many voxels to segment, and compute in float32. That makes 13 and 18 times in place of
25. Windows that may be a quarter longer would spare the second one, but lost a whole validation scan at two of 34 drawn
spacings when they were tried.""",
    ),
    Shortfall(
        title="memory of a whole job",
        nearest=(
            Nearest("whole", "hippocampus, 2x2x2 mm: memory", at_most(0.1), "MONAI"),
            Nearest("whole", "hippocampus, 2x2x2 mm: memory", at_most(0.15), "nnU-Net"),
            Nearest("whole", "heart, 3x3x8 mm: memory", at_most(0.4), "nnU-Net"),
        ),
        why="""\
MONAI and nnU-Net are given our network, which now lets go of each result once its last reader has read it: their memory
fell more (the heart's at nnU-Net from 196 to 115 MB) than ours (from 47 to 40). The figures of the faster host are from
before.""",
    ),
    Shortfall(
        title="memory of many classes",
        nearest=(Nearest("memory", "100 classes, 128x128x200", at_most(1.5)),),
        why="""\
both figures fell, that of two classes more: a network lets go of each result once its last reader has read it, which is
most of the memory where classes are few. A hundred of them need blended features in place of two blended logits (35
and 14 MB here). The figures of the faster host are from before.""",
    ),
    Shortfall(
        title="a slower host",
        nearest=(
            Nearest("generation", "weights, paper size", at_most(1.35)),
            Nearest("load", "paper size, 679 MB", at_most(1.7)),
            Nearest("inference", "float32 with kept memory, bit-equal: hippocampus-mr, 64x64x64", at_most(0.95)),
            Nearest("inference", "as a worker does: hippocampus-mr, 64x64x64", at_most(0.4)),
            Nearest("inference", "float32 with kept memory, bit-equal: heart-mr, 256x256x12", at_most(0.91)),
            Nearest("http", "16 x 16 x 16, beyond inference", at_most(25)),
            Nearest("http", "hippocampus, 1 mm, beyond inference", at_most(27)),
            Nearest("http", "DICOM in, SEG and SR out, beyond inference", at_most(180)),
            Nearest("http", "small jobs with one worker", at_least(25)),
            Nearest("start", "unet-factory --help", at_most(0.4)),
            Nearest("start", "gateway", at_most(1.4)),
            Nearest("start", "worker with the shipped models", at_most(2.9)),
            Nearest("start", "unet-factory serve", at_most(4.2)),
            Nearest("quote", "error of the time, hippocampus-mr", at_most(20)),
            Nearest("page", "from the drop of 256 x 256 x 180 voxels to their picture", at_most(1400)),
        ),
        why="""\
these rows reach their aims on a faster host, whose figures stand beside. The processor goes by the same name, but
Python takes 1.35 to 1.5 times as long on this one, and two threads that convolve almost twice: its two cores seem to
share one. So all that is demanded in ms or in jobs a second suffers, as do ratios in which one side computes and the
other waits for memory. Its speed also wavers, within minutes, which no prediction of a job's time knows.""",
    ),
)
