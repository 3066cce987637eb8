"""Real series: the small one of the examples, and the shared data where ``UNET_FACTORY_DATA`` names the folder."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from tests.fixtures.project import DICOM_SERIES
from tests.volume.test_dicom_geometry import itk_affine_ras, itk_series
from unet_factory.volume import Volume, read_volume
from unet_factory.volume.dicom import pack_series
from unet_factory.volume.geometry import as_stored

DATA = os.environ.get("UNET_FACTORY_DATA")


def read(folder: Path, target: Path) -> tuple[Volume, Any]:
    """By us and by ITK."""
    pack_series(sorted(folder.iterdir()), target)
    volume, image = read_volume(target), itk_series(folder)
    stored = as_stored(volume.data, volume.header.affine)
    np.testing.assert_array_equal(stored, sitk.GetArrayFromImage(image).transpose(2, 1, 0))
    return volume, itk_affine_ras(image)


def test_the_example(tmp_path: Path) -> None:
    volume, affine = read(DICOM_SERIES, tmp_path / "a.zip")
    header = volume.header
    assert (header.shape, header.spacing_ras_mm, header.orientation, header.notes) == (
        (35, 51, 32),
        (1, 1, 1),
        "LPS",
        (),
    )
    np.testing.assert_array_equal(header.affine, affine)


@pytest.mark.skipif(DATA is None, reason="needs UNET_FACTORY_DATA, the folder with dicom/")
def test_an_oblique_series_whose_slice_thickness_lies(tmp_path: Path) -> None:
    volume, affine = read(Path(DATA or "") / "dicom" / "PGBM-002_T1post", tmp_path / "a.zip")
    header = volume.header
    assert header.shape == (512, 512, 22)
    assert header.spacing_ras_mm == pytest.approx((0.4297, 0.4297, 6.5), abs=1e-5)
    assert header.notes == ()
    np.testing.assert_allclose(header.affine, affine, atol=1e-5)
    assert volume.data.max() == 9774
