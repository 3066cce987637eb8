"""Dice at the working resolution: scan and label map resampled to a spacing, segmented there, scored there."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.metrics import compute_dice
from torch import Generator, Tensor
from torch.func import functional_call
from torch.nn import functional

from unet_factory.manifest import Manifest
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.inference import segment
from unet_factory.model.normalisation import zscore
from unet_factory.model.resampling import resample, resample_labels
from unet_factory.model.unet import empty_unet
from unet_factory.spacing import SnappedSpacing, SpacingGrid
from unet_factory_training.datasets import Scan


@dataclass(frozen=True)
class Score:
    """Dice per foreground label of one scan at one spacing; NaN where the label is absent from the reference."""

    scan: str
    spacing: SnappedSpacing
    dice: tuple[float, ...]


def score_scan(hypernetwork: Hypernetwork, manifest: Manifest, scan: Scan, spacing: SnappedSpacing) -> Score:
    """Simulate ``scan`` at ``spacing``, segment it with the network made for it, and compare."""
    image = resample(scan.image.to(hypernetwork.bias.device), scan.spacing_ras_mm, spacing.mm)
    reference = resample_labels(scan.labels, manifest.architecture.classes, scan.spacing_ras_mm, spacing.mm)
    unet, weights = empty_unet(manifest.architecture).eval(), hypernetwork.generate(spacing)
    with torch.inference_mode():
        predicted = segment(
            lambda batch: functional_call(unet, weights, (batch,), strict=True),
            zscore(image),
            window=manifest.window,
            divisor=manifest.architecture.divisor,
        )
    return Score(scan.name, spacing, dice(predicted.cpu(), reference, manifest.architecture.classes))


def score_scans(
    hypernetwork: Hypernetwork, manifest: Manifest, scans: Sequence[Scan], spacings: Sequence[SnappedSpacing]
) -> list[Score]:
    """Every scan at every spacing."""
    return [score_scan(hypernetwork, manifest, scan, spacing) for spacing in spacings for scan in scans]


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
