"""Where a DICOM series lies: any orientation, any order of its files, the spacing from positions alone."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.fixtures.dicom_files import as_bytes, enhanced, saved, series, zipped
from tests.fixtures.volume_files import LPS, ORIENTATIONS, SPACING_RAS_MM, affine_ras, load_nifti, phantom, reoriented
from unet_factory.volume import read_header, read_volume, write_labelmap
from unet_factory.volume.dicom import read_series
from unet_factory.volume.geometry import as_stored


def in_ras(voxels: NDArray[Any], affine: NDArray[np.float64]) -> Any:
    return nib.as_closest_canonical(nib.Nifti1Image(voxels, affine, dtype=voxels.dtype))


@pytest.mark.parametrize("rotation_deg", [0, 17])
@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_every_orientation(tmp_path: Path, axes: tuple[int, ...], flips: tuple[int, ...], rotation_deg: float) -> None:
    voxels, affine = reoriented(phantom(), affine_ras(rotation_deg), axes, flips)
    slices = series(voxels, affine)
    path = zipped([slices[k] for k in np.random.default_rng(1).permutation(len(slices))], tmp_path / "a.zip")
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, phantom())
    assert volume.spacing_ras_mm == pytest.approx(SPACING_RAS_MM, rel=1e-6)
    header = volume.header
    assert (header.format, header.dtype, header.notes) == ("dicom", "int16", ())
    stored = nib.Nifti1Image(as_stored(volume.data, header.affine), header.affine)
    np.testing.assert_allclose(
        in_ras(np.asarray(stored.dataobj), header.affine).affine, affine_ras(rotation_deg), atol=1e-5
    )
    assert np.linalg.det((LPS @ header.affine)[:3, :3]) > 0, "slices ascend along the normal"


@pytest.mark.parametrize("rotation_deg", [0, 30, -75])
def test_itk_reads_the_same_affine_and_voxels(tmp_path: Path, rotation_deg: float) -> None:
    voxels, affine = reoriented(phantom(), affine_ras(rotation_deg), (2, 0, 1), (1, -1, -1))
    files = saved(series(voxels, affine)[::-1], tmp_path / "files")
    volume = read_volume(zipped(series(voxels, affine), tmp_path / "a.zip"))
    image = itk_series(files[0].parent)
    np.testing.assert_allclose(volume.header.affine, itk_affine_ras(image), atol=1e-5)
    np.testing.assert_array_equal(
        as_stored(volume.data, volume.header.affine), sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    )


@settings(max_examples=25, deadline=None)
@given(
    rotation_deg=st.floats(-180, 180),
    about=st.tuples(*[st.floats(0.1, 1)] * 3),
    scale=st.tuples(*[st.floats(0.1, 4)] * 3),
    order=st.permutations(range(7)),
    multiframe=st.booleans(),
)
def test_any_oblique_grid_in_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    rotation_deg: float,
    about: tuple[float, float, float],
    scale: tuple[float, float, float],
    order: list[int],
    multiframe: bool,
) -> None:
    affine = affine_ras(rotation_deg, about) @ np.diag([*scale, 1])
    affine[:3, 0] *= np.sign(np.linalg.det((LPS @ affine)[:3, :3]))  # as DICOM counts its slices
    voxels, folder = phantom(), tmp_path_factory.mktemp("series")
    if multiframe:
        found = read_series(zipped([enhanced(voxels, affine, order)], folder / "a.zip"))
        assert [frame for _, frame in found.frames] == [order.index(k) + 1 for k in range(7)]
    else:
        slices = series(voxels, affine)
        found = read_series(zipped([slices[k] for k in order], folder / "a.zip"))
        assert [dataset.InstanceNumber for dataset in found.datasets] == [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_allclose(found.header.affine, affine, atol=1e-4)
    assert found.header.shape == voxels.shape
    volume = read_volume(folder / "a.zip")
    np.testing.assert_array_equal(as_stored(volume.data, volume.header.affine), voxels)


def test_a_bare_file_is_a_series_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "scan"
    path.write_bytes(as_bytes(enhanced(phantom(), affine_ras(5))))
    np.testing.assert_array_equal(
        read_volume(path).data, read_volume(zipped([enhanced(phantom(), affine_ras(5))], tmp_path / "a.zip")).data
    )


def test_the_headers_of_the_series_come_along(tmp_path: Path) -> None:
    slices = series(phantom(), affine_ras(10))
    found = read_series(zipped(slices[::-1], tmp_path / "a.zip"))
    assert [dataset.SOPInstanceUID for dataset in found.datasets] == [dataset.SOPInstanceUID for dataset in slices]
    assert found.frames == tuple((k, 1) for k in range(7))
    assert all("PixelData" not in dataset and dataset.PatientName == "DOE^JANE" for dataset in found.datasets)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_label_map_lies_on_the_series_own_grid(tmp_path: Path, suffix: str) -> None:
    voxels, affine = reoriented(phantom(), affine_ras(20), (1, 2, 0), (-1, 1, 1))
    path = zipped(series(voxels, affine), tmp_path / "a.zip")
    volume = read_volume(path)
    labels = (volume.data % 3).astype(np.uint8)
    write_labelmap(tmp_path / f"labels{suffix}", labels, path, volume.header)
    header = read_header(tmp_path / f"labels{suffix}")
    assert header.shape == volume.header.shape
    np.testing.assert_allclose(header.affine, volume.header.affine, atol=2e-5)
    np.testing.assert_array_equal(read_volume(tmp_path / f"labels{suffix}").data, labels)
    write_labelmap(tmp_path / f"again{suffix}", labels, path)
    assert (tmp_path / f"again{suffix}").read_bytes() == (tmp_path / f"labels{suffix}").read_bytes()
    assert b"DOE" not in (tmp_path / f"labels{suffix}").read_bytes()


def test_a_given_spacing_overrules(tmp_path: Path) -> None:
    path = zipped(series(phantom(), affine_ras(20), PixelSpacing=None), tmp_path / "a.zip")
    volume = read_volume(path, spacing_ras_mm=(1, 2, 3))
    assert volume.spacing_ras_mm == (1, 2, 3)
    write_labelmap(tmp_path / "labels.nii.gz", (volume.data % 3).astype(np.uint8), path, volume.header)
    assert load_nifti(tmp_path / "labels.nii.gz").header.get_zooms() == pytest.approx((1, 2, 3), rel=1e-6)


def itk_series(folder: Path) -> Any:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def itk_affine_ras(image: Any) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS @ affine
