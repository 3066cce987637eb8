"""What faster inference costs: bfloat16, windows that overlap less than by half, and windows that stretch.

Decided on the validation split alone: the overlap with the fewest windows whose mean Dice is within ``ALLOWED_LOSS`` of
what half the window gives. All ways are compared with float32 and half the window. How far windows stretch is decided
with that overlap (:mod:`unet_factory_training.stretched_windows`).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from unet_factory.domain.manifest import Label, Manifest
from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import OutsidePolicy, SnappedSpacing, SpacingMm, plan_spacing
from unet_factory.domain.windows import WINDOW_OVERLAP, WINDOW_STRETCH
from unet_factory.domain.workload import workload_of
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint, replace_manifest
from unet_factory_training.config import TrainingConfig
from unet_factory_training.contrast import at_drawn_contrast
from unet_factory_training.datasets import LabelledScan, read_split
from unet_factory_training.evaluation import Simulated, dice, segment_simulated, simulate
from unet_factory_training.model_card import fill_marked
from unet_factory_training.stretched_windows import (
    ALLOWED_LOSS,
    StretchCost,
    decide_stretch,
    measure_stretches,
    stretch_rows,
)

log = logging.getLogger(__name__)

CARD_MARK, STRETCH_MARK = "inference", "stretch"
OVERLAPS = (WINDOW_OVERLAP, 0.375, 0.25)
DRAWS = 6


class Way(NamedTuple):
    """How the network is run."""

    precision: Precision
    overlap: float


WAYS = (Way("float32", WINDOW_OVERLAP), *(Way("bfloat16", overlap) for overlap in OVERLAPS))


@dataclass(frozen=True)
class Cost:
    """Means over scans and spacings: ``dice`` per label, the share of voxels with the ``same`` label as the reference
    way gives them, and ``windows`` a scan.
    """

    way: Way
    dice: tuple[float, ...]
    same: float
    windows: float

    @property
    def mean_dice(self) -> float:
        return sum(self.dice) / len(self.dice)


class WindowChoice(NamedTuple):
    """What was chosen, and what each way costs."""

    overlap: float
    costs: list[Cost]
    stretch: float
    stretch_costs: list[StretchCost]

    def overlap_table(self, labels: Sequence[Label]) -> list[list[str]]:
        return rows_of(self.costs, self.overlap, labels)

    def stretch_table(self, labels: Sequence[Label]) -> list[list[str]]:
        return stretch_rows(self.stretch_costs, self.stretch, labels)


def choose_windows(
    config: TrainingConfig, checkpoint_path: Path, target: Path, draws: int = DRAWS, card: Path | None = None
) -> WindowChoice:
    """Decide on the validation scans and write the checkpoint with overlap and stretch in its manifest to ``target``;
    its weights stay.

    ``draws``: spacings that the stretch is tried at besides the scans' own. ``card``: a model card to put the tables
    into.

    Raises:
        CheckpointInvalid: it is no checkpoint.
        DatasetInvalid: as ``read_split``.
        ValueError: the card lacks the marks.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    scans = read_split(config.dataset, "validation", config.architecture.classes)
    plain = checkpoint.manifest.model_copy(update={"window_stretch": WINDOW_STRETCH})
    costs = measure(checkpoint, plain, config, scans)
    manifest = plain.model_copy(update={"window_overlap": decide(costs)})
    stretch_costs = measure_stretches(checkpoint, manifest, config, scans, draws)
    chosen = WindowChoice(manifest.window_overlap, costs, decide_stretch(stretch_costs), stretch_costs)
    replace_manifest(checkpoint_path, manifest.model_copy(update={"window_stretch": chosen.stretch}), target)
    if card is not None:
        fill_marked(card, CARD_MARK, chosen.overlap_table(manifest.labels))
        fill_marked(card, STRETCH_MARK, chosen.stretch_table(manifest.labels))
    return chosen


def decide(costs: Sequence[Cost]) -> float:
    """Of the ways in bfloat16 that lose no more Dice than is allowed, the one with the fewest windows, and of equals
    the one with the larger overlap.
    """
    fast = [cost for cost in costs if cost.way.precision == "bfloat16"]
    half = next(cost for cost in fast if cost.way.overlap == WINDOW_OVERLAP)
    allowed = [cost for cost in fast if cost.mean_dice >= half.mean_dice - ALLOWED_LOSS]
    return min(allowed, key=lambda cost: (cost.windows, -cost.way.overlap)).way.overlap


def measure(
    checkpoint: Checkpoint, manifest: Manifest, config: TrainingConfig, scans: Sequence[LabelledScan]
) -> list[Cost]:
    """Every scan is segmented once in each way, otherwise as ``manifest`` says; no label map is kept."""
    cases = _cases(manifest, scans)
    rows = []
    for number, (scan, spacing_mm) in enumerate(cases, 1):
        shown = at_drawn_contrast(scan, spacing_mm, config.contrast)
        rows.append(_row(checkpoint, manifest, simulate(shown, spacing_mm, config.architecture.classes)))
        log.info("%d of %d", number, len(cases))
    means = torch.tensor(rows, dtype=torch.float64).nanmean(dim=0).tolist()
    return [
        Cost(way, dice=tuple(values), same=same, windows=windows)
        for way, (*values, same, windows) in zip(WAYS, means, strict=True)
    ]


def rows_of(costs: Sequence[Cost], overlap: float, labels: Sequence[Label]) -> list[list[str]]:
    """What each way costs, as a table's rows; the first is its heading."""
    heading = ["arithmetic", "overlap", "windows a scan", "same label", *(label.name for label in labels[1:]), "mean"]
    rows = [
        [
            cost.way.precision,
            f"{cost.way.overlap:g}{' (adopted)' if cost.way.overlap == overlap else ''}",
            f"{cost.windows:.1f}",
            f"{cost.same:.5f}",
            *(f"{value:.4f}" for value in (*cost.dice, cost.mean_dice)),
        ]
        for cost in costs
    ]
    return [heading, *rows]


def _cases(manifest: Manifest, scans: Sequence[LabelledScan]) -> list[tuple[LabelledScan, SpacingMm]]:
    """The scans at their own spacings, or, where none of them needs more than one window, at the finest."""
    native = [(scan, scan.spacing_ras_mm) for scan in scans]
    if any(_windows(manifest, scan.image.shape, spacing_mm) > 1 for scan, spacing_mm in native):
        return native
    finest = SnappedSpacing(*manifest.grid.min_um).mm
    return [(scan, finest) for scan in scans]


def _windows(manifest: Manifest, shape: Sequence[int], spacing_mm: SpacingMm) -> int:
    return workload_of(manifest, shape, plan_spacing(spacing_mm, manifest.grid, OutsidePolicy.CLAMP)).windows


def _row(checkpoint: Checkpoint, manifest: Manifest, simulated: Simulated) -> list[tuple[float, ...]]:
    """Per way: Dice per label, share of voxels with the same label, windows."""
    found: dict[tuple[Precision, int], Tensor] = {}
    rows = []
    for way in WAYS:
        judged = manifest.model_copy(update={"window_overlap": way.overlap})
        windows = _windows(judged, simulated.image.shape, simulated.spacing_mm)
        key = way.precision, windows  # as many windows are the same windows
        if key not in found:
            found[key] = segment_simulated(checkpoint, judged, simulated, precision=way.precision)
        same = float((found[key] == next(iter(found.values()))).double().mean())
        rows.append((*dice(found[key], simulated.labels, manifest.architecture.classes), same, windows))
    return rows
