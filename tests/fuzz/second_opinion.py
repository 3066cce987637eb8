"""The same file by an independent reader, in the order of the file's own axes: nibabel, SimpleITK, pydicom."""

import warnings
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom.uid as uids
import SimpleITK
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import FileDataset

from unet_factory.volume import Volume
from unet_factory.volume.dicom import DicomVolume

_NATIVE = {
    (True, True): uids.ImplicitVRLittleEndian,
    (False, True): uids.ExplicitVRLittleEndian,
    (False, False): uids.ExplicitVRBigEndian,
}


def second_opinion(path: Path, volume: Volume) -> NDArray[Any] | None:
    """The voxels (i, j, k) that the other reader finds; None where it refuses the file."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            if isinstance(volume, DicomVolume):
                return _by_pydicom(path, volume)
            return _by_nibabel(path) if volume.header.format == "nifti" else _by_simpleitk(path)
        except Exception:  # whatever the other reader raises is its own affair
            return None


def _by_nibabel(path: Path) -> NDArray[Any]:
    image = nib.Nifti1Image.from_filename(path)
    voxels = np.asarray(image.get_fdata())
    return voxels.reshape(voxels.shape[:3])


def _by_simpleitk(path: Path) -> NDArray[Any]:
    voxels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    return voxels.T.reshape(voxels.T.shape[:3])


def _by_pydicom(path: Path, volume: DicomVolume) -> NDArray[Any]:
    contents = _members(path)
    slices = []
    for one in volume.series.slices:
        dataset = dcmread(BytesIO(contents[one.source.member]), force=True)
        pixels = _pixels(dataset)
        frame = pixels[one.frame - 1] if pixels.ndim == 3 else pixels
        slices.append(frame.astype(np.float64) * one.slope + one.inter)
    return np.stack(slices, axis=-1).transpose(1, 0, 2)


def _members(path: Path) -> list[bytes]:
    if not zipfile.is_zipfile(path):
        return [path.read_bytes()]
    with zipfile.ZipFile(path) as archive:
        return [archive.read(member) for member in archive.infolist() if not member.is_dir()]


def _pixels(dataset: FileDataset) -> NDArray[Any]:
    """By the syntax that the data set was found to be in, unless it is compressed."""
    if not dataset["PixelData"].is_undefined_length:
        dataset.file_meta.TransferSyntaxUID = _NATIVE[dataset.original_encoding]  # type: ignore[index]
    return np.asarray(dataset.pixel_array)
