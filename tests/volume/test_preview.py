"""The preview: a millimetre is as long in every direction, and the outlines lie where the labels do."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from unet_factory.volume.preview import LONGEST_EXTENT_PX, draw_preview


def drawn(
    folder: Path,
    labels: NDArray[np.uint8],
    spacing_mm: tuple[float, float, float],
    scan: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    dark = np.zeros(labels.shape, np.float32) if scan is None else scan
    draw_preview(folder / "preview.png", dark, labels, spacing_mm)
    with Image.open(folder / "preview.png") as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def box(picture: NDArray[np.uint8], left: int, right: int) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of what is coloured between two columns."""
    part = picture[:, left:right].astype(int)
    rows, columns = np.nonzero(part.max(axis=2) != part.min(axis=2))
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 0.5, 4.0), (3.0, 1.0, 0.5)])
def test_a_cube_is_a_square_in_every_plane_whatever_the_spacing(
    tmp_path: Path, spacing_mm: tuple[float, float, float]
) -> None:
    shape = tuple(round(96 / mm) for mm in spacing_mm)
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(round(24 / mm), round(72 / mm)) for mm in spacing_mm)] = 1
    picture = drawn(tmp_path, labels, spacing_mm)
    assert picture.shape[0] == LONGEST_EXTENT_PX
    panel = (picture.shape[1] - 16) // 3
    for number in range(3):
        top, bottom, left, right = box(picture, number * (panel + 8), number * (panel + 8) + panel)
        assert bottom - top == pytest.approx(LONGEST_EXTENT_PX / 2, abs=3)
        assert right - left == pytest.approx(LONGEST_EXTENT_PX / 2, abs=3)


def test_right_is_left_and_superior_and_anterior_are_on_top(tmp_path: Path) -> None:
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[50:56, 40:46, 30:36] = 1  # far to the right, somewhat anterior, in the middle from below
    picture = drawn(tmp_path, labels, (1, 1, 1))
    panel = (picture.shape[1] - 16) // 3
    axial, coronal, sagittal = (box(picture, start, start + panel) for start in (0, panel + 8, 2 * (panel + 8)))
    scale = panel / 60
    assert axial[2] == pytest.approx(4 * scale, abs=2), "the patient's right is on the left"
    assert coronal[2] == axial[2]
    assert axial[0] == pytest.approx(14 * scale, abs=2), "anterior is on top"
    assert sagittal[2] == pytest.approx(14 * scale, abs=2), "anterior is on the left"
    assert coronal[0] == sagittal[0] == pytest.approx(24 * scale, abs=2), "superior is on top"


def test_labels_have_colours_of_their_own_and_no_label_none(tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    assert (drawn(tmp_path, labels, (1, 1, 1)) == 0).all()
    labels[5:10, 5:15, 5:15], labels[10:15, 5:15, 5:15] = 1, 2
    picture = drawn(tmp_path, labels, (1, 1, 1))
    assert len({tuple(pixel) for pixel in picture.reshape(-1, 3).tolist() if any(pixel)}) == 2


def test_the_brightest_and_darkest_voxels_of_a_scan_do_not_set_its_contrast(tmp_path: Path) -> None:
    scan = np.random.default_rng(0).normal(100, 10, (30, 30, 30)).astype(np.float32)
    scan[0, 0, 0] = 1e9
    assert drawn(tmp_path, np.zeros(scan.shape, np.uint8), (1, 1, 1), scan).std() > 30


def test_below_the_planes_each_label_has_its_volume_in_its_colour_however_narrow_the_picture(tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:10, 5:15, 5:15], labels[10:15, 5:15, 5:15] = 1, 2
    planes = drawn(tmp_path, labels, (1, 1, 1))
    dark = np.zeros(labels.shape, np.float32)
    names = {f"{'very ' * 9}long name {number}": 1.5 for number in (1, 2)}
    draw_preview(tmp_path / "captioned.png", dark, labels, (1, 1, 1), names)
    with Image.open(tmp_path / "captioned.png") as picture:
        captioned = np.asarray(picture)
    above, caption = captioned[: len(planes)], captioned[len(planes) :]
    assert np.array_equal(above, planes)
    outlines = {tuple(pixel) for pixel in planes.reshape(-1, 3).tolist() if any(pixel)}
    assert outlines <= {tuple(pixel) for pixel in caption.reshape(-1, 3).tolist()}
    assert (caption == 255).all(axis=2).any(), "the spacing is written in white"
