"""What is measured of each label in a scan."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_factory.domain.frozen import Frozen
from unet_factory.domain.manifest import Label


class LabelStatistics(Frozen):
    """One label: its volume, and the intensities of its voxels as the scan has them; None without any voxel."""

    value: int
    name: str
    voxels: int
    volume_ml: float
    mean: float | None = None
    sd: float | None = None
    minimum: float | None = None
    median: float | None = None
    maximum: float | None = None


def label_statistics(
    scan: NDArray[np.float32], labels: NDArray[Any], known: Sequence[Label], volumes_ml: Mapping[str, float]
) -> tuple[LabelStatistics, ...]:
    """
    Args:
        scan: (r, a, s) intensities.
        labels: (r, a, s) class indices on the same grid.
        known: the model's labels; background is left out.
    """
    return tuple(
        _of_label(scan[labels == label.value], label, volumes_ml[label.name]) for label in known if label.value
    )


def _of_label(inside: NDArray[np.float32], label: Label, volume_ml: float) -> LabelStatistics:
    measured: dict[str, float] = {}
    if inside.size:
        measured = {
            "mean": float(inside.mean(dtype=np.float64)),
            "sd": float(inside.std(dtype=np.float64)),
            "minimum": float(inside.min()),
            "median": float(np.median(inside)),
            "maximum": float(inside.max()),
        }
    return LabelStatistics(value=label.value, name=label.name, voxels=inside.size, volume_ml=volume_ml, **measured)
