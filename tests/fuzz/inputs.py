"""Sound files to mutate: small volumes in every format, and objects that contradict what they state."""

import gzip
import tempfile
import zipfile
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom.uid as uids
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tests.fixtures.dicom_files import as_bytes, enhanced, series
from tests.fixtures.volume_files import affine_ras, phantom, write_mha, write_nifti, write_nrrd

AFFINE = affine_ras(10)
OBJECT_OF_SERIES = "dicom object of a series"
SYNTAXES = {
    "explicit": uids.ExplicitVRLittleEndian,
    "implicit": uids.ImplicitVRLittleEndian,
    "deflated": uids.DeflatedExplicitVRLittleEndian,
    "RLE": uids.RLELossless,
    "JPEG 2000": uids.JPEG2000Lossless,
    "JPEG-LS": uids.JPEGLSLossless,
}


def sound_files() -> dict[str, bytes]:
    """The files by name, whose first word is their format."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {
            "nifti plain": write_nifti(folder / "a.nii"),
            "nifti scaled": write_nifti(folder / "b.nii", scl=(0.5, -3.0)),
            "mha plain": write_mha(folder / "a.mha"),
            "nrrd raw": write_nrrd(folder / "a.nrrd"),
            "nrrd gzipped": write_nrrd(
                folder / "b.nrrd", gzip.compress(phantom().tobytes(order="F"), mtime=0), encoding="gzip"
            ),
        }
        found = {kind: path.read_bytes() for kind, path in files.items()}
    for kind, syntax in SYNTAXES.items():
        found[f"dicom enhanced {kind}"] = in_syntax(_named(enhanced(_voxels(), AFFINE)), syntax)
    found["nifti gzipped"] = gzip.compress(found["nifti plain"], mtime=0)
    found["dicom zip"] = _archive(_series())
    found[OBJECT_OF_SERIES] = _series()[0]
    found["dicom misstated"] = found["dicom enhanced explicit"].replace(
        b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"
    )
    found["dicom bare"] = found["dicom enhanced explicit"][132:]
    return found


def packed(kind: str, content: bytes) -> bytes:
    """The file to send: an object of a series goes into an archive with the sound others of the series."""
    return _archive([content, *_series()[1:]]) if kind == OBJECT_OF_SERIES else content


@cache
def _series() -> list[bytes]:
    return [as_bytes(_named(one)) for one in series(phantom(), AFFINE)]


def _archive(members: list[bytes]) -> bytes:
    with BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for index, content in enumerate(members):
                archive.writestr(zipfile.ZipInfo(f"{index}"), content, zipfile.ZIP_DEFLATED)
        return file.getvalue()


def _named(dataset: Dataset) -> Dataset:
    """With UIDs that are the same in every run."""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3.4", "1.2.3.5", "1.2.3.6"
    dataset.SOPInstanceUID = f"1.2.3.7.{dataset.InstanceNumber}"
    return dataset


def in_syntax(dataset: Dataset, syntax: uids.UID) -> bytes:
    if syntax.is_encapsulated:
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    content = as_bytes(dataset)
    assert BytesIO(content).read(132).endswith(b"DICM")
    return content


def _voxels() -> NDArray[np.int16]:
    """JPEG 2000 needs more than a few pixels."""
    ramp: NDArray[np.int16] = np.add.outer(phantom((36, 33, 1), "int64")[..., 0], np.arange(3) * 7).astype(np.int16)
    return ramp
