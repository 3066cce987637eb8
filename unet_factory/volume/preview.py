"""A picture of what was found: three planes through its centre, with the outline and the volume of every label."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_Voxel = TypeVar("_Voxel", bound=np.generic)

LONGEST_EXTENT_PX = 320

_GAP_PX = 8
_TEXT_PX = 14
_WHITE = (255, 255, 255)
_GREY_PERCENTILES = (1, 99)
_COLOURS = ((255, 90, 54), (55, 214, 122), (70, 150, 255), (255, 205, 60), (200, 110, 255), (60, 220, 220))


class _View(NamedTuple):
    """A plane: the axis that it cuts, and those that run across and down the picture, both from their far end."""

    cut: int
    across: int
    down: int


_R, _A, _S = range(3)
_AXIAL, _CORONAL, _SAGITTAL = _View(_S, _R, _A), _View(_A, _R, _S), _View(_R, _A, _S)


def draw_preview(
    path: Path,
    scan: NDArray[np.float32],
    labels: NDArray[np.uint8],
    spacing_ras_mm: Sequence[float],
    volumes_ml: Mapping[str, float] | None = None,
) -> None:
    """Write a PNG of the axial, coronal and sagittal planes through the centre of mass of all labels.

    A millimetre has the same length everywhere in the picture. Without any label the planes go through the middle of
    the scan.

    Args:
        scan: (r, a, s) intensities; the 1st to the 99th percentile fill the range from black to white.
        labels: (r, a, s) class indices on the same grid, 0 for background.
        spacing_ras_mm: of that grid.
        volumes_ml: by label name, in the order of the labels' values from 1; written below, with the spacing.
    """
    centre = _centre(labels)
    low, high = np.percentile(scan, _GREY_PERCENTILES)
    px_per_mm = LONGEST_EXTENT_PX / max(extent * mm for extent, mm in zip(scan.shape, spacing_ras_mm, strict=True))
    panels = []
    for view in (_AXIAL, _CORONAL, _SAGITTAL):
        grey = np.clip((_plane(scan, view, centre) - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
        found = _plane(labels, view, centre)
        size = (
            max(1, round(scan.shape[view.across] * spacing_ras_mm[view.across] * px_per_mm)),
            max(1, round(scan.shape[view.down] * spacing_ras_mm[view.down] * px_per_mm)),
        )
        panels.append(_panel((grey * 255).astype(np.uint8), found, size))
    picture = _side_by_side(panels)
    if volumes_ml is not None:
        picture = _above(picture, _caption(spacing_ras_mm, volumes_ml, picture.width))
    picture.save(path, "PNG", optimize=True)


def _centre(labels: NDArray[np.uint8]) -> tuple[int, ...]:
    found = np.nonzero(labels)
    if found[0].size == 0:
        return tuple(extent // 2 for extent in labels.shape)
    return tuple(round(float(indices.mean())) for indices in found)


def _plane(volume: NDArray[_Voxel], view: _View, centre: tuple[int, ...]) -> NDArray[_Voxel]:
    """(down, across) of a volume (r, a, s): the patient's right on the left, anterior or superior on top."""
    plane: NDArray[_Voxel] = np.take(volume, centre[view.cut], axis=view.cut)
    return plane.T[::-1, ::-1]


def _panel(grey: NDArray[np.uint8], labels: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    shown = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))
    scaled = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    colours = np.repeat(shown[..., None], 3, axis=2)
    outlined = (scaled > 0) & _borders(scaled)
    for value in np.unique(scaled[outlined]):
        colours[outlined & (scaled == value)] = _colour(int(value))
    return Image.fromarray(colours)


def _borders(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where one of the four neighbours has another label; outside the plane is background."""
    padded = np.pad(labels, 1)
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    differs: NDArray[np.bool_] = np.logical_or.reduce([neighbour != labels for neighbour in neighbours])
    return differs


def _side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    width = sum(panel.width for panel in panels) + _GAP_PX * (len(panels) - 1)
    picture = Image.new("RGB", (width, max(panel.height for panel in panels)))
    left = 0
    for panel in panels:
        picture.paste(panel, (left, (picture.height - panel.height) // 2))
        left += panel.width + _GAP_PX
    return picture


def _colour(value: int) -> tuple[int, int, int]:
    return _COLOURS[(value - 1) % len(_COLOURS)]


def _caption(spacing_ras_mm: Sequence[float], volumes_ml: Mapping[str, float], width: int) -> Image.Image:
    """The spacing, and each label's volume in the colour of its outline, in as many lines as they need."""
    font = ImageFont.load_default(_TEXT_PX)
    spacing = " x ".join(f"{mm:.3g}" for mm in spacing_ras_mm)
    words = [(f"{spacing} mm (R, A, S)", _WHITE)]
    words += [(f"{name} {ml:.2f} ml", _colour(value)) for value, (name, ml) in enumerate(volumes_ml.items(), start=1)]
    placed: list[tuple[int, int, str, tuple[int, int, int]]] = []
    left = top = _GAP_PX
    for text, colour in words:
        length = round(font.getlength(text))
        if placed and left + length > width:
            left, top = _GAP_PX, top + _TEXT_PX + _GAP_PX
        placed.append((left, top, text, colour))
        left += length + 2 * _GAP_PX
    caption = Image.new("RGB", (width, top + _TEXT_PX + _GAP_PX))
    pen = ImageDraw.Draw(caption)
    for x, y, text, colour in placed:
        pen.text((x, y), text, fill=colour, font=font)
    return caption


def _above(picture: Image.Image, caption: Image.Image) -> Image.Image:
    whole = Image.new("RGB", (picture.width, picture.height + caption.height))
    whole.paste(picture, (0, 0))
    whole.paste(caption, (0, picture.height))
    return whole
