"""Dice at the working resolution: scan and label map resampled to a spacing, segmented there, scored there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from monai.metrics import compute_dice
from torch import Generator, Tensor
from torch.nn import functional

from unet_factory.domain.conditions import choose_conditions
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import OutsidePolicy, SnappedSpacing, SpacingGrid, SpacingMm, plan_spacing
from unet_factory.model.checkpoint import Checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.inference import Execution, segment_scan
from unet_factory.model.preprocessing import resample, resample_labels
from unet_factory_training.contrast import InversionRecovery, at_drawn_contrast
from unet_factory_training.datasets import LabelledScan, Split
from unet_factory_training.ensemble import Ensemble

Networks = Hypernetwork | Checkpoint | Ensemble
"""What makes a network for a spacing."""

DRAW_SEEDS: Mapping[Split, int] = {"train": 777, "validation": 777, "test": 20240}
"""For the drawn spacings of figures. Choices are made at other spacings than the test figures are reported for."""


@dataclass(frozen=True)
class Score:
    """Dice per foreground label of one scan at one spacing; NaN where the label is absent from the reference."""

    scan: str
    spacing_mm: SpacingMm
    dice: tuple[float, ...]


@dataclass(frozen=True)
class Simulated:
    """A scan as an acquisition of another spacing would give it: ``image`` and ``labels`` (r, a, s)."""

    image: Tensor
    labels: Tensor
    spacing_mm: SpacingMm
    conditions: Mapping[str, float] = field(default_factory=dict)


def simulate(scan: LabelledScan, spacing_mm: SpacingMm, classes: int) -> Simulated:
    """Scan and reference label map at ``spacing_mm``; untouched at the scan's own."""
    image = resample(scan.image, scan.spacing_ras_mm, spacing_mm)
    labels = resample_labels(scan.labels, classes, scan.spacing_ras_mm, spacing_mm)
    return Simulated(image, labels, spacing_mm, scan.conditions)


def segment_simulated(
    networks: Networks,
    manifest: Manifest,
    simulated: Simulated,
    outside: OutsidePolicy = OutsidePolicy.CLAMP,
    precision: Precision = "float32",
    working_mm: SpacingMm | None = None,
) -> Tensor:
    """The label map (r, a, s), uint8 on the CPU, on the simulated grid, voxel for voxel as a worker makes it: at
    ``working_mm``, by default the simulated spacing, or, where that was not trained, under the policy at the closest
    one that was.

    Raises:
        NoContrast, SpacingOutOfRange: as a worker would fail.
    """
    plan = plan_spacing(simulated.spacing_mm, manifest.grid, outside, working_mm)
    conditions = choose_conditions(manifest.conditions, simulated.conditions)
    unet = networks.unet(plan.snapped, conditions)
    window, overlap = manifest.window_at(plan.snapped), manifest.window_overlap
    device = next(unet.parameters()).device
    execution = Execution(device, window, unet.divisors, precision, overlap=overlap)
    return segment_scan(unet, simulated.image, plan, execution, postprocessing=manifest.postprocessing)


def score_scan(
    networks: Networks,
    manifest: Manifest,
    scan: LabelledScan,
    spacing_mm: SpacingMm,
    precision: Precision = "float32",
    working_mm: SpacingMm | None = None,
) -> Score:
    """Simulate ``scan`` at ``spacing_mm``, segment it, there or at ``working_mm``, and compare."""
    classes = manifest.architecture.classes
    simulated = simulate(scan, spacing_mm, classes)
    predicted = segment_simulated(networks, manifest, simulated, precision=precision, working_mm=working_mm)
    return Score(scan.name, spacing_mm, dice(predicted, simulated.labels.to(predicted.device), classes))


def score_scans(
    networks: Networks,
    manifest: Manifest,
    scans: Sequence[LabelledScan],
    spacings: Sequence[SnappedSpacing | None],
    precision: Precision = "float32",
    contrast: InversionRecovery | None = None,
    *,
    even: bool = False,
) -> list[Score]:
    """Every scan at every spacing; ``None`` stands for its own. With a ``contrast``, each time at one of its own; where
    it is ``even``, segmented at :func:`even_in_slice`.
    """

    def score(scan: LabelledScan, spacing_mm: SpacingMm) -> Score:
        shown = at_drawn_contrast(scan, spacing_mm, contrast)
        return score_scan(networks, manifest, shown, spacing_mm, precision, even_in_slice(spacing_mm) if even else None)

    return [
        score(scan, scan.spacing_ras_mm if spacing is None else spacing.mm) for spacing in spacings for scan in scans
    ]


def even_in_slice(spacing_mm: SpacingMm) -> SpacingMm:
    """Voxels as large as these, R as long as A."""
    r_mm, a_mm, s_mm = spacing_mm
    side_mm = math.sqrt(r_mm * a_mm)
    return side_mm, side_mm, s_mm


def dice(predicted: Tensor, reference: Tensor, classes: int) -> tuple[float, ...]:
    """Dice per foreground class of two label maps (r, a, s)."""
    values = compute_dice(_one_hot(predicted, classes), _one_hot(reference, classes), include_background=False)
    return tuple(values[0].tolist())


def mean_dice(scores: Sequence[Score]) -> float:
    """Mean over scans and foreground labels, absent labels left out."""
    return float(torch.tensor([score.dice for score in scores]).nanmean())


def draw_spacings(grid: SpacingGrid, count: int, seed: int) -> list[SnappedSpacing]:
    """Monte-Carlo spacings, uniform in mm over the trained range (paper, Table 2), snapped."""
    generator = Generator().manual_seed(seed)
    low, high = (torch.tensor(ends, dtype=torch.float64) for ends in zip(*grid.range_mm, strict=True))
    drawn = low + torch.rand(count, 3, generator=generator, dtype=torch.float64) * (high - low)
    return [grid.clamp(grid.snap(spacing.tolist())) for spacing in drawn]


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    return functional.one_hot(labels.long(), classes).movedim(-1, 0)[None]
