"""How well a label map fits its reference: overlap, distance of surfaces in mm, and volume."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.metrics.utils import get_edge_surface_distance
from torch import Tensor

from unet_factory_training.evaluation import dice

HAUSDORFF_QUANTILE = 0.95


@dataclass(frozen=True)
class LabelMeasures:
    """One label of one scan. All NaN where the reference lacks the label: the scan says nothing about it.

    ``hd95_mm``, ``assd_mm``: 95th percentile and mean of the distances between the surfaces, both ways (the larger
    percentile of the two, the mean over both). A label that the prediction lacks counts with the diagonal of the scan,
    which no distance can exceed. ``volume_bias``: predicted volume over reference volume, minus one.
    """

    label: int
    dice: float
    hd95_mm: float
    assd_mm: float
    volume_bias: float


def measure_labels(
    predicted: Tensor, reference: Tensor, classes: int, spacing_mm: Sequence[float]
) -> list[LabelMeasures]:
    """Every foreground label of two label maps (r, a, s) of ``spacing_mm``."""
    overlaps = dice(predicted, reference, classes)
    return [
        LabelMeasures(label, overlap, *_surface_and_volume(predicted == label, reference == label, spacing_mm))
        for label, overlap in enumerate(overlaps, start=1)
    ]


def _surface_and_volume(
    predicted: Tensor, reference: Tensor, spacing_mm: Sequence[float]
) -> tuple[float, float, float]:
    voxels, expected = int(predicted.sum()), int(reference.sum())
    if not expected:
        return math.nan, math.nan, math.nan
    if not voxels:
        diagonal_mm = math.hypot(*(n * mm for n, mm in zip(reference.shape, spacing_mm, strict=True)))
        return diagonal_mm, diagonal_mm, -1.0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)  # MONAI's own
        _, (there, back), _ = get_edge_surface_distance(predicted, reference, spacing=list(spacing_mm), symmetric=True)
    hd95 = max(float(distances.quantile(HAUSDORFF_QUANTILE)) for distances in (there, back))
    return hd95, float(torch.cat([there, back]).mean()), voxels / expected - 1
