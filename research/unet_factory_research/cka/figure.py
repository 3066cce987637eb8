"""The figure of an analysis (paper, Fig. 3 a to h), as PNG."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from unet_factory_research.cka.layers import Layers
from unet_factory_research.cka.maps import Map, Maps, rate_of_change
from unet_factory_research.cka.regions import levels_of

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "savefig.dpi": 110,
    "image.interpolation": "nearest",
}


def draw_figure(
    maps: Maps, layers: Layers, spacings: Sequence[str], along_mm: Sequence[float], folder: Path, name: str
) -> None:
    """Write ``NAME.png``: the first checkpoint's maps, and in (h) the mean over pairs of checkpoints.

    ``spacings``: each as text; ``along_mm``: each as the number of the linear models.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(13, 6.6), layout="constrained")
        panels = figure.subplots(2, 4).flat
        for panel, letter, draw in zip(panels, "abcdefgh", _drawings(maps, layers, spacings, along_mm), strict=True):
            draw(panel)
            panel.set_title(f"({letter}) {panel.get_title()}", fontsize=8)
        figure.savefig(folder / f"{name}.png")


def _drawings(
    maps: Maps, layers: Layers, spacings: Sequence[str], along_mm: Sequence[float]
) -> list[Callable[[Axes], None]]:
    """What each panel shows, in the order of the paper."""
    within, across = maps.within[0], maps.across[0]
    middle, last = len(spacings) // 2, len(spacings) - 1

    def similarity(values: Map, title: str) -> Callable[[Axes], None]:
        return lambda panel: _similarity(panel, values, layers, title)

    def rate(values: Map, title: str) -> Callable[[Axes], None]:
        return lambda panel: _rate(panel, rate_of_change(values, along_mm).slope, layers, title)

    reference = spacings[0]
    return [
        similarity(within[0], f"within, {reference}"),
        similarity(within[last], f"within, {spacings[last]}"),
        rate(within, "within: rate of change"),
        lambda panel: _structure(panel, layers),
        similarity(across[middle], f"{reference} (rows) with {spacings[middle]}"),
        similarity(across[last], f"{reference} (rows) with {spacings[last]}"),
        rate(across, f"{reference} (rows) with others: rate of change"),
        similarity(maps.between[:, 0].mean(axis=0), f"two hypernetworks, {reference}") if maps.pairs else _no_pair,
    ]


def _similarity(panel: Axes, values: Map, layers: Layers, title: str) -> None:
    image = panel.imshow(values, vmin=0, vmax=1, cmap="magma")
    _finish(panel, image, layers, title, "CKA")


def _rate(panel: Axes, slope: Map, layers: Layers, title: str) -> None:
    bound = max(float(np.nanmax(np.abs(slope))), 1e-9)
    image = panel.imshow(slope, vmin=-bound, vmax=bound, cmap="RdBu_r")
    _finish(panel, image, layers, title, "CKA per mm")


def _structure(panel: Axes, layers: Layers) -> None:
    """Below the diagonal the distance of layers, above it where they have the same size; dots: skip connections."""
    lower = np.tri(len(layers.names), k=-1, dtype=bool)
    image = panel.imshow(np.where(lower, layers.distances, np.nan), cmap="viridis")
    same = np.where(layers.same_size & ~lower, 0.65, np.nan)
    panel.imshow(same, vmin=0, vmax=1, cmap="Greys")
    for start, end in layers.skips:
        panel.plot([start, start, end], [start, end, end], color="#d55e00", linewidth=1)
    _finish(panel, image, layers, "layer distance; same size (grey); skips", "connections")


def _no_pair(panel: Axes) -> None:
    panel.set_axis_off()
    panel.text(0.5, 0.5, "takes a second checkpoint", ha="center", va="center", transform=panel.transAxes)
    panel.set_title("two hypernetworks")


def _finish(panel: Axes, image: AxesImage, layers: Layers, title: str, unit: str) -> None:
    """Ticks where the level changes, named by the levels."""
    levels = levels_of(layers)
    edges = [0, *(np.flatnonzero(np.diff(levels)) + 1), len(levels)]
    middles = [(start + end - 1) / 2 for start, end in pairwise(edges)]
    texts = [str(levels[start]) for start in edges[:-1]]
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_ticks(middles, labels=texts)
        axis.set_ticks([edge - 0.5 for edge in edges], minor=True)
        axis.set_tick_params(which="major", length=0)
    panel.set_title(title)
    panel.set_xlabel("layers, by level")
    panel.figure.colorbar(image, ax=panel, shrink=0.75, label=unit)
