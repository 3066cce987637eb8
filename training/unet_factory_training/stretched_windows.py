"""How much longer than its window an axis may be and still be segmented in one piece.

Two windows that share most of what they see cost nearly twice as much as one, but instance norm wants windows like the
crops of the training. So this too is decided on the validation split: the stretch for which networks are given the
fewest voxels, of those whose mean Dice over the scans' own and drawn spacings is within ``ALLOWED_LOSS`` of none.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch

from unet_factory.domain.manifest import Label, Manifest
from unet_factory.domain.spacing import OutsidePolicy, plan_spacing
from unet_factory.domain.windows import WINDOW_STRETCH
from unet_factory.domain.workload import workload_of
from unet_factory.model.checkpoint import Checkpoint
from unet_factory_training.config import TrainingConfig
from unet_factory_training.contrast import at_drawn_contrast
from unet_factory_training.datasets import LabelledScan
from unet_factory_training.evaluation import DRAW_SEEDS, Simulated, dice, draw_spacings, segment_simulated, simulate

log = logging.getLogger(__name__)

STRETCHES = (WINDOW_STRETCH, 1.125, 1.25)
ALLOWED_LOSS = 0.001


class StretchCost(NamedTuple):
    """Means over scans and spacings: ``dice`` per label, and the voxels that networks are given, ``computed``, as
    multiples of the scan's.
    """

    stretch: float
    dice: tuple[float, ...]
    computed: float

    @property
    def mean_dice(self) -> float:
        return sum(self.dice) / len(self.dice)


def decide_stretch(costs: Sequence[StretchCost]) -> float:
    """Of equals the smallest."""
    plain = next(cost for cost in costs if cost.stretch == WINDOW_STRETCH)
    allowed = [cost for cost in costs if cost.mean_dice >= plain.mean_dice - ALLOWED_LOSS]
    return min(allowed, key=lambda cost: (cost.computed, cost.stretch)).stretch


def measure_stretches(
    checkpoint: Checkpoint, manifest: Manifest, config: TrainingConfig, scans: Sequence[LabelledScan], draws: int
) -> list[StretchCost]:
    """Every scan at its own and at ``draws`` drawn spacings, with every stretch, in bfloat16; otherwise as ``manifest``
    says.
    """
    spacings = [None, *draw_spacings(config.grid, draws, DRAW_SEEDS["validation"])]
    rows = []
    for number, spacing in enumerate(spacings, 1):
        for scan in scans:
            spacing_mm = scan.spacing_ras_mm if spacing is None else spacing.mm
            shown = at_drawn_contrast(scan, spacing_mm, config.contrast)
            rows.append(_row(checkpoint, manifest, simulate(shown, spacing_mm, config.architecture.classes)))
        log.info("spacing %d of %d", number, len(spacings))
    means = torch.tensor(rows, dtype=torch.float64).nanmean(dim=0).tolist()
    return [
        StretchCost(stretch, tuple(values), computed)
        for stretch, (*values, computed) in zip(STRETCHES, means, strict=True)
    ]


def stretch_rows(costs: Sequence[StretchCost], stretch: float, labels: Sequence[Label]) -> list[list[str]]:
    """What each stretch costs, as a table's rows; the first is its heading."""
    heading = ["stretch", "voxels computed a voxel", *(label.name for label in labels[1:]), "mean"]
    rows = [
        [
            f"{cost.stretch:g}{' (adopted)' if cost.stretch == stretch else ''}",
            f"{cost.computed:.2f}",
            *(f"{value:.4f}" for value in (*cost.dice, cost.mean_dice)),
        ]
        for cost in costs
    ]
    return [heading, *rows]


def _row(checkpoint: Checkpoint, manifest: Manifest, simulated: Simulated) -> list[tuple[float, ...]]:
    """Per stretch: Dice per label, voxels computed."""
    plan = plan_spacing(simulated.spacing_mm, manifest.grid, OutsidePolicy.CLAMP)
    found: dict[int, tuple[float, ...]] = {}
    rows = []
    for stretch in STRETCHES:
        stretched = manifest.model_copy(update={"window_stretch": stretch})
        work = workload_of(stretched, simulated.image.shape, plan)
        if work.window_voxels not in found:  # a stretch only ever enlarges windows: as large is the same
            labels = segment_simulated(checkpoint, stretched, simulated, precision="bfloat16")
            found[work.window_voxels] = dice(labels, simulated.labels, manifest.architecture.classes)
        runs = work.windows // len(manifest.hypernetworks)
        rows.append((*found[work.window_voxels], runs * work.window_voxels / work.working_voxels))
    return rows
