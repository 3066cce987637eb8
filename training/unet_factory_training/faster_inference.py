"""What faster inference costs: bfloat16, and windows that overlap less than by half.

Decided on the validation split alone: the overlap with the fewest windows whose mean Dice is within ``ALLOWED_LOSS`` of
what half the window gives. All ways are compared with float32 and half the window.
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
from unet_factory.domain.windows import WINDOW_OVERLAP
from unet_factory.domain.workload import workload_of
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint, replace_manifest
from unet_factory_training.config import TrainingConfig
from unet_factory_training.contrast import at_drawn_contrast
from unet_factory_training.datasets import LabelledScan, read_split
from unet_factory_training.evaluation import Simulated, dice, segment_simulated, simulate
from unet_factory_training.model_card import fill_marked

log = logging.getLogger(__name__)

CARD_MARK = "inference"
OVERLAPS = (WINDOW_OVERLAP, 0.375, 0.25)
ALLOWED_LOSS = 0.001


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


def choose_windows(
    config: TrainingConfig, checkpoint_path: Path, target: Path, card: Path | None = None
) -> tuple[list[Cost], float]:
    """Decide on the validation scans and write the checkpoint with the overlap in its manifest to ``target``; its
    weights stay.

    ``card``: a model card to put the table into.

    Raises:
        CheckpointInvalid: it is no checkpoint.
        DatasetInvalid: as ``read_split``.
        ValueError: the card lacks the marks.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    costs = measure(checkpoint, config, read_split(config.dataset, "validation", config.architecture.classes))
    overlap = decide(costs)
    manifest = checkpoint.manifest.model_copy(update={"window_overlap": overlap})
    replace_manifest(checkpoint_path, manifest, target)
    if card is not None:
        fill_marked(card, CARD_MARK, rows_of(costs, overlap, manifest.labels))
    return costs, overlap


def decide(costs: Sequence[Cost]) -> float:
    """Of the ways in bfloat16 that lose no more Dice than is allowed, the one with the fewest windows, and of equals
    the one with the larger overlap.
    """
    fast = [cost for cost in costs if cost.way.precision == "bfloat16"]
    half = next(cost for cost in fast if cost.way.overlap == WINDOW_OVERLAP)
    allowed = [cost for cost in fast if cost.mean_dice >= half.mean_dice - ALLOWED_LOSS]
    return min(allowed, key=lambda cost: (cost.windows, -cost.way.overlap)).way.overlap


def measure(checkpoint: Checkpoint, config: TrainingConfig, scans: Sequence[LabelledScan]) -> list[Cost]:
    """Every scan is segmented once in each way; no label map is kept."""
    cases = _cases(checkpoint.manifest, scans)
    rows = []
    for number, (scan, spacing_mm) in enumerate(cases, 1):
        shown = at_drawn_contrast(scan, spacing_mm, config.contrast)
        rows.append(_row(checkpoint, simulate(shown, spacing_mm, config.architecture.classes)))
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


def _row(checkpoint: Checkpoint, simulated: Simulated) -> list[tuple[float, ...]]:
    """Per way: Dice per label, share of voxels with the same label, windows."""
    found: dict[tuple[Precision, int], Tensor] = {}
    rows = []
    for way in WAYS:
        manifest = checkpoint.manifest.model_copy(update={"window_overlap": way.overlap})
        windows = _windows(manifest, simulated.image.shape, simulated.spacing_mm)
        key = way.precision, windows  # as many windows are the same windows
        if key not in found:
            found[key] = segment_simulated(checkpoint, manifest, simulated, precision=way.precision)
        same = float((found[key] == next(iter(found.values()))).double().mean())
        rows.append((*dice(found[key], simulated.labels, manifest.architecture.classes), same, windows))
    return rows
