"""The demo's picture: one scan in three planes at several spacings, the expert's outline against the service's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from unet_factory_cli.demo_scans import Segmented
from unet_factory_cli.demo_table import spacing_text


class Plane(NamedTuple):
    """A cut perpendicular to ``normal``, with the array axes that lie across and up in the picture."""

    name: str
    normal: int
    across: int
    up: int


PLANES = (Plane("sagittal", 0, 1, 2), Plane("coronal", 1, 0, 2), Plane("axial", 2, 0, 1))
EXPERT, SERVICE = "#37d67a", "#ff5a36"

_DPI = 110


def draw_overlay(path: Path, results: Sequence[Segmented]) -> None:
    """One row per result, one column per plane, in mm, cut where the expert's label is."""
    mpl.use("agg")
    figure = Figure(figsize=(3 * len(PLANES), 2.6 * len(results) + 0.6), layout="constrained")
    axes = figure.subplots(len(results), len(PLANES), squeeze=False)
    for row, result in zip(axes, results, strict=True):
        for panel, plane in zip(row, PLANES, strict=True):
            _draw_panel(panel, result, plane)
        scores = " / ".join(f"{value:.2f}" for value in result.dice)
        row[0].set_ylabel(f"{spacing_text(result.scan.spacing_mm)} mm\nDice {scores}")
    for panel, plane in zip(axes[0], PLANES, strict=True):
        panel.set_title(plane.name)
    figure.suptitle(f"{results[0].scan.name}: expert (solid green), U-Net factory (dashed red)")
    figure.savefig(path, dpi=_DPI)


def _draw_panel(panel: Any, result: Segmented, plane: Plane) -> None:
    scan = result.scan
    cut = round(float(np.mean(np.nonzero(scan.expert)[plane.normal])))
    width, height = (scan.image.shape[axis] * scan.spacing_mm[axis] for axis in (plane.across, plane.up))
    extent = (0.0, width, 0.0, height)
    panel.imshow(_cut(scan.image, plane, cut), cmap="gray", origin="lower", extent=extent, interpolation="nearest")
    for labels, colour, style in ((scan.expert, EXPERT, "solid"), (result.labels, SERVICE, "dashed")):
        for value in (1, 2):
            inside = _cut(labels, plane, cut) == value
            if inside.any() and not inside.all():
                panel.contour(inside, [0.5], colors=colour, linestyles=style, linewidths=1.1, extent=extent)
    panel.set(xticks=[], yticks=[], xlim=(0, width), ylim=(0, height))


def _cut(voxels: NDArray[Any], plane: Plane, index: int) -> NDArray[Any]:
    """(up, across), as pictures are stored."""
    cut: NDArray[Any] = np.take(voxels, index, axis=plane.normal).T
    return cut
