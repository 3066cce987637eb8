"""Results of small DICOM scans for the tests, and a reader of segmentations that shares nothing with their writer."""

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from tests.fixtures.dicom_files import series, zipped
from tests.fixtures.volume_files import affine_ras, phantom, reoriented
from unet_factory.domain.jobs import PolicyReport
from unet_factory.domain.manifest import Label
from unet_factory.domain.segmentation_parameters import SegmentationType
from unet_factory.domain.spacing import OutsidePolicy
from unet_factory.volume.dicom import read_series
from unet_factory_worker.dicom_results import Provenance, write_dicom_results

HIPPOCAMPUS = ("SCT", "5366008", "Hippocampus")
LABELS = (
    Label(value=0, name="background"),
    Label(value=1, name="anterior", code=HIPPOCAMPUS, modifier=("SCT", "255549009", "Anterior")),
    Label(value=2, name="posterior", code=HIPPOCAMPUS, modifier=("SCT", "255551008", "Posterior")),
    Label(
        value=3,
        name="tumour",
        code=("SCT", "86049000", "Malignant neoplasm, primary"),
        category=("SCT", "49755003", "Morphologically Abnormal Structure"),
        region=("SCT", "12738006", "Brain"),
    ),
    Label(value=4, name="something"),
)
SPACING_MM = (1.0, 2.0, 3.0)
SHAPE = (5, 6, 7)
Files = dict[str, Path]
Source = tuple[str, int | None]
"""SOP instance UID and, of a multi-frame image, frame from 1."""


def labels_ras(shape: Sequence[int] = SHAPE, values: int = 4) -> NDArray[np.uint8]:
    """(r, a, s): labels 0 to ``values`` without any symmetry, and a slice of each axis without labels."""
    labels = np.random.default_rng(3).integers(0, values + 1, shape, np.uint8)
    labels[1], labels[:, 1], labels[:, :, 1] = 0, 0, 0
    return labels


def scan_of(shape: tuple[int, int, int] = SHAPE, **attributes: Any) -> list[Dataset]:
    """Oblique, slices (column, row, slice) along RAS in turn; no two voxels alike."""
    voxels, affine = reoriented(phantom(shape), affine_ras(25), (0, 1, 2), (-1, -1, 1))
    return series(voxels, affine, **attributes)


def provenance(
    job_id: str = "0" * 32, labels: tuple[Label, ...] = LABELS, created: float = 1767225600.25
) -> Provenance:
    policy = PolicyReport(outside=OutsidePolicy.CLAMP, out_of_range=True, resampled=True)
    return Provenance(job_id, created, "tiny", "ab" * 32, labels, SPACING_MM, (1.0, 2.0, 2.5), (1.0, 2.0, 2.45), policy)


def results(
    folder: Path,
    scan: Iterable[Dataset] | Path,
    labels_ras: NDArray[np.uint8],
    seg_type: SegmentationType = "binary",
    made: Provenance | None = None,
) -> Files:
    """The files by name that are made of a label map (r, a, s) of a scan; 0.5 ml a voxel."""
    folder.mkdir(parents=True, exist_ok=True)
    made = made or provenance()
    path = scan if isinstance(scan, Path) else zipped(scan, folder / "scan.zip")
    volumes_ml = {label.name: 0.5 * np.count_nonzero(labels_ras == label.value) for label in made.labels if label.value}
    written = write_dicom_results(folder, labels_ras, volumes_ml, read_series(path), made, seg_type)
    return {file.name: file for file in written}


def complaints(file: Path) -> list[str]:
    """The errors that dciodvfy finds, without where."""
    validator = shutil.which("dciodvfy")
    if validator is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    told = subprocess.run([validator, "-new", str(file)], capture_output=True, text=True, check=False)
    lines = (told.stderr + told.stdout).splitlines()
    return [line.rpartition("> - ")[2].removeprefix("Error - ") for line in lines if line.startswith("Error")]


def frames_by_source(file: Path) -> dict[Source, NDArray[np.uint8]]:
    """The labels (row, column) over each source image, by the attributes and the bits alone."""
    seg = dcmread(file)
    values = {label.name: label.value for label in LABELS}
    of_segment = {segment.SegmentNumber: values.get(segment.SegmentLabel, 0) for segment in seg.SegmentSequence}
    found: dict[Source, NDArray[np.uint8]] = {}
    for pixels, groups in zip(_stored_frames(seg), seg.PerFrameFunctionalGroupsSequence, strict=True):
        (derivation,) = groups.DerivationImageSequence
        (source,) = derivation.SourceImageSequence
        frame = source.get("ReferencedFrameNumber")
        key = (str(source.ReferencedSOPInstanceUID), None if frame is None else int(frame))
        labels = found.setdefault(key, np.zeros(pixels.shape, np.uint8))
        if seg.SegmentationType == "LABELMAP":
            for number, value in of_segment.items():
                labels[pixels == number] = value
        else:
            labels[pixels > 0] = of_segment[_segment_number(seg, groups)]
    return found


def positions_lps(file: Path) -> dict[Source, list[float]]:
    """ImagePositionPatient of the frames, by their source image."""
    found = {}
    for groups in dcmread(file).PerFrameFunctionalGroupsSequence:
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        frame = source.get("ReferencedFrameNumber")
        key = (str(source.ReferencedSOPInstanceUID), None if frame is None else int(frame))
        found[key] = [float(mm) for mm in groups.PlanePositionSequence[0].ImagePositionPatient]
    return found


def _stored_frames(seg: Dataset) -> NDArray[np.uint8]:
    """(frame, row, column); bits lie one after another, the least significant of a byte first (PS3.5 8.1.1)."""
    shape = int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns)
    stored: NDArray[Any] = np.frombuffer(seg.PixelData, np.uint8)
    if seg.BitsAllocated == 1:
        stored = np.unpackbits(stored, bitorder="little")
    return stored[: np.prod(shape)].reshape(shape)


def _segment_number(seg: Dataset, groups: Dataset) -> int:
    shared = seg.SharedFunctionalGroupsSequence[0]
    holder = groups if "SegmentIdentificationSequence" in groups else shared
    return int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
