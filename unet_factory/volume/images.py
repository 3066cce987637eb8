"""What a caller may give as a scan, as one file: a path, a folder of DICOM files, or an image in memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage

from unet_factory.domain.errors import NotAVolume

Scan = str | os.PathLike[str] | SpatialImage


@contextmanager
def scan_file(scan: Scan) -> Iterator[Path]:
    """The file itself; of a folder a zip archive of the DICOM files below it, of an image a NIfTI file, as long as the
    block lasts.

    Raises:
        NotAVolume: a folder without a DICOM file.
    """
    if isinstance(scan, SpatialImage):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "scan.nii"
            nibabel.save(scan, path)
            yield path
    elif (path := Path(scan)).is_dir():
        with _packed(path) as archive:
            yield archive
    else:
        yield path


@contextmanager
def _packed(folder: Path) -> Iterator[Path]:
    from unet_factory.volume.dicom import dicom_files, pack_series  # slow to import, and seldom needed

    files = dicom_files(folder)
    if not files:
        raise NotAVolume("there is no DICOM file in the folder or below it")
    with TemporaryDirectory() as temporary:
        archive = Path(temporary) / "series.zip"
        pack_series(files, archive)
        yield archive


def image_in_memory(path: Path) -> nibabel.Nifti1Image:
    """A NIfTI file whose voxels no longer need the file."""
    image = nibabel.Nifti1Image.from_filename(path, mmap=False)
    return nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
