"""The shared data sets, where they are at hand: ``UNET_FACTORY_DATA`` names the folder."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.fixtures.volume_files import load_nifti
from unet_factory.domain.errors import SpacingAmbiguous
from unet_factory.volume import read_header, read_volume, write_labelmap

DATA = os.environ.get("UNET_FACTORY_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="needs UNET_FACTORY_DATA, the folder with hippocampus/ and acdc/")


def scans(pattern: str) -> list[Path]:
    found = sorted(Path(DATA or "").glob(pattern))
    assert found
    return found


@pytest.mark.parametrize("pattern", ["hippocampus/images/*.nii.gz", "spine_vb3/images/*.nii.gz", "brats2021/*/*t1ce*"])
def test_scans_read_as_nibabel_reads_them(pattern: str, tmp_path: Path) -> None:
    for path in scans(pattern)[:3]:
        image = load_nifti(path)
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.data, nib.as_closest_canonical(image).get_fdata(dtype=np.float32))
        write_labelmap(tmp_path / "labels.nii.gz", (volume.data > volume.data.mean()).astype(np.uint8), path)
        labels = load_nifti(tmp_path / "labels.nii.gz")
        np.testing.assert_array_equal(labels.affine, image.affine)
        assert labels.header.get_zooms() == image.header.get_zooms()


def test_every_hippocampus_is_at_one_millimetre() -> None:
    assert {read_header(path).spacing_ras_mm for path in scans("hippocampus/images/*.nii.gz")} == {(1.0, 1.0, 1.0)}


def test_every_heart_is_ambiguous_until_its_spacing_is_given(tmp_path: Path) -> None:
    for path in scans("acdc/*/*frame01.nii.gz")[:10]:
        with pytest.raises(SpacingAmbiguous) as caught:
            read_header(path)
        declared_mm = caught.value.details["declared_mm"]
        assert read_header(path, spacing_ras_mm=declared_mm).spacing_ras_mm == tuple(declared_mm)
        labels = np.zeros(read_header(path, spacing_ras_mm=declared_mm).shape_ras, np.uint8)
        write_labelmap(tmp_path / "labels.nii.gz", labels, path)
        np.testing.assert_array_equal(load_nifti(tmp_path / "labels.nii.gz").affine, load_nifti(path).affine)
