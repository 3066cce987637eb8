"""What clients send: a few small scans, again and again, and series that are each new to the factory."""

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from pydicom import Dataset

from tests.fixtures.dicom_files import mr_series, zipped

MODEL = "tiny"
SLICES = 8
SERIES_KINDS = 3
NETWORKS_MM = ("1,1,1", "0.8,1.2,2.5", "2,1,1", "1,1,3")

_EXTENTS = {"small": 16, "medium": 40, "large": 72}


@dataclass(frozen=True)
class Scan:
    """``name`` is the same for equal content; a DICOM series in a zip archive gives DICOM results too."""

    name: str
    file: Path

    @property
    def is_dicom(self) -> bool:
        return self.file.suffix == ".zip"


def make_scans(folder: Path) -> list[Scan]:
    """Cubes of noise from a single window to many, and one series in a zip archive."""
    folder.mkdir(parents=True)
    scans = []
    for name, extent in _EXTENTS.items():
        scans.append(Scan(name, folder / f"{name}.nii.gz"))
        voxels = np.random.default_rng(extent).normal(size=(extent,) * 3).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), scans[-1].file)
    return [*scans, Scan("zip", zipped(mr_series(SLICES, 24, 99), folder / "zip.zip"))]


def make_series(kind: int) -> list[Dataset]:
    """Of one of ``SERIES_KINDS`` contents, in a study of its own."""
    return mr_series(SLICES, 24, kind)
