"""However a scan lies in its file, it is the same scan; and its label map lies in the file as the scan does."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.fixtures.volume_files import (
    ORIENTATIONS,
    SPACING_RAS_MM,
    affine_ras,
    itk_in_lps,
    itk_voxels,
    load_itk,
    load_nifti,
    phantom,
    reoriented,
    write_volume,
)
from unet_factory.volume import read_header, read_volume, write_labelmap

OBLIQUE = affine_ras(rotation_deg=28)


@pytest.mark.parametrize("suffix", [".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
@pytest.mark.parametrize("rotation_deg", [0, 28])
def test_every_orientation_reads_as_the_same_scan(
    tmp_path: Path, suffix: str, axes: tuple[int, ...], flips: tuple[int, ...], rotation_deg: float
) -> None:
    stored, affine = reoriented(phantom(), affine_ras(rotation_deg), axes, flips)
    volume = read_volume(write_volume(tmp_path / f"scan{suffix}", stored, affine))
    np.testing.assert_array_equal(volume.data, phantom())
    assert volume.data.dtype == np.float32
    assert volume.data.flags.c_contiguous
    assert volume.spacing_ras_mm == pytest.approx(SPACING_RAS_MM, rel=1e-6)
    assert volume.header.shape == stored.shape
    assert volume.header.shape_ras == phantom().shape
    letters = "".join(("LR", "PA", "IS")[axis][flip > 0] for axis, flip in zip(axes, flips, strict=True))
    assert volume.header.orientation == letters
    np.testing.assert_allclose(volume.header.affine, affine, atol=1e-4)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_labels_come_back_at_the_same_physical_points(
    tmp_path: Path, suffix: str, axes: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    stored, affine = reoriented(phantom(), OBLIQUE, axes, flips)
    source = write_volume(tmp_path / f"scan{suffix}", stored, affine)
    write_labelmap(tmp_path / f"labels{suffix}", (phantom() % 5).astype(np.uint8), source)
    np.testing.assert_array_equal(_library_voxels(tmp_path / f"labels{suffix}"), stored % 5)
    assert_same_grid(tmp_path / f"labels{suffix}", source)


@settings(max_examples=30, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    rotation_deg=st.floats(0, 40),
    about=st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.1, 1)),
    suffix=st.sampled_from([".nii", ".nii.gz", ".mha", ".nrrd"]),
)
def test_any_shape_and_rotation(
    tmp_path_factory: pytest.TempPathFactory,
    orientation: tuple[tuple[int, ...], tuple[int, ...]],
    shape: tuple[int, int, int],
    rotation_deg: float,
    about: tuple[float, float, float],
    suffix: str,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    stored, affine = reoriented(phantom(shape), affine_ras(rotation_deg, about), *orientation)
    source = write_volume(folder / f"scan{suffix}", stored, affine)
    np.testing.assert_array_equal(read_volume(source).data, phantom(shape))
    write_labelmap(folder / f"labels{suffix}", (phantom(shape) % 5).astype(np.uint8), source)
    np.testing.assert_array_equal(read_volume(folder / f"labels{suffix}").data, phantom(shape) % 5)
    assert_same_grid(folder / f"labels{suffix}", source)


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS[::5])
def test_formats_agree(tmp_path: Path, axes: tuple[int, ...], flips: tuple[int, ...]) -> None:
    stored, affine = reoriented(phantom(), OBLIQUE, axes, flips)
    nifti, mha, nrrd = (
        read_volume(write_volume(tmp_path / f"s{s}", stored, affine)) for s in (".nii", ".mha", ".nrrd")
    )
    for other in (mha, nrrd):
        np.testing.assert_array_equal(other.data, nifti.data)
        np.testing.assert_allclose(other.header.affine, nifti.header.affine, atol=1e-5)
        assert other.spacing_ras_mm == pytest.approx(nifti.spacing_ras_mm, rel=1e-6)
        assert other.header.orientation == nifti.header.orientation


def test_nibabel_agrees_beyond_45_degrees(tmp_path: Path) -> None:
    for rotation_deg in (50, 95, 170):
        path = write_volume(tmp_path / "scan.nii", phantom(), affine_ras(rotation_deg))
        canonical = nib.as_closest_canonical(load_nifti(path))
        np.testing.assert_array_equal(read_volume(path).data, canonical.get_fdata())
        assert read_volume(path).spacing_ras_mm == pytest.approx(canonical.header.get_zooms(), rel=1e-6)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_simpleitk_agrees(tmp_path: Path, suffix: str) -> None:
    stored, affine = reoriented(phantom(), OBLIQUE, (2, 0, 1), (-1, 1, -1))
    path = write_volume(tmp_path / f"scan{suffix}", stored, affine)
    lps = itk_in_lps(load_itk(path))
    np.testing.assert_array_equal(read_volume(path).data, itk_voxels(lps)[::-1, ::-1])
    assert read_header(path).spacing_ras_mm == pytest.approx(lps.GetSpacing())


def assert_same_grid(labels: Path, source: Path) -> None:
    """Bit by bit, as the libraries read both files."""
    np.testing.assert_array_equal(read_header(labels).affine, read_header(source).affine)
    assert read_header(labels).shape == read_header(source).shape
    if ".nii" in source.suffixes:
        ours, theirs = load_nifti(labels), load_nifti(source)
        np.testing.assert_array_equal(ours.affine, theirs.affine)
        assert ours.header.get_zooms() == theirs.header.get_zooms()
        assert ours.shape == theirs.shape
        return
    ours, theirs = load_itk(labels), load_itk(source)
    for geometry in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(ours, geometry)() == getattr(theirs, geometry)()


def _library_voxels(path: Path) -> NDArray[Any]:
    """(i, j, k)"""
    if ".nii" in path.suffixes:
        return np.asarray(load_nifti(path).dataobj)
    return itk_voxels(load_itk(path))
