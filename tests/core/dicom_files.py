"""DICOM series for the tests, written by pydicom from voxels and an affine, and never by the code under test."""

import zipfile
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from tests.core.volume_files import LPS

PATIENT = "DOE^JANE"
PIXELS = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "SamplesPerPixel": 1}

Change = Callable[[list[Dataset]], None]


def series(voxels: NDArray[Any], affine: NDArray[np.float64], **attributes: Any) -> list[Dataset]:
    """One MR object for each slice of ``voxels`` (column, row, slice), ``affine`` (4, 4) to RAS mm.

    SliceThickness and SpacingBetweenSlices lie on purpose.
    """
    common = _common(MRImageStorage, voxels, attributes)
    return [_slice(voxels[:, :, k], affine, k, common, attributes) for k in range(voxels.shape[2])]


def enhanced(
    voxels: NDArray[Any], affine: NDArray[np.float64], order: Sequence[int] = (), **attributes: Any
) -> Dataset:
    """One enhanced MR object whose frames are the slices, in the given ``order``."""
    order = order or range(voxels.shape[2])
    dataset = _common(EnhancedMRImageStorage, voxels, attributes)
    dataset.SOPInstanceUID = generate_uid()
    dataset.InstanceNumber = 1
    dataset.NumberOfFrames = len(order)
    dataset.SharedFunctionalGroupsSequence = Items([_shared(affine)])
    dataset.PerFrameFunctionalGroupsSequence = Items([_frame(affine, k) for k in order])
    dataset.PixelData = np.ascontiguousarray(voxels[:, :, list(order)].transpose(2, 1, 0)).tobytes()
    _set(dataset, attributes)
    return dataset


def saved(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, dataset in enumerate(datasets):
        paths.append(folder / f"{index}.dcm")
        paths[-1].write_bytes(as_bytes(dataset))
    return paths


def zipped(
    datasets: Iterable[Dataset], path: Path, others: dict[str, bytes] | None = None, method: int = zipfile.ZIP_DEFLATED
) -> Path:
    """The objects and ``others`` (bytes by name) in a zip archive, under names that say nothing."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in (others or {}).items():
            archive.writestr(name, content)
        for index, dataset in enumerate(datasets):
            archive.writestr(f"study/{index}", as_bytes(dataset))
    return path


def as_bytes(dataset: Dataset) -> bytes:
    with BytesIO() as file:
        dataset.save_as(file, enforce_file_format=True)
        return file.getvalue()


def no_image(modality: str, sop_class: str) -> Dataset:
    """An object that is no image, such as a report."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = (
        UID(sop_class),
        generate_uid(),
        generate_uid(),
    )
    dataset.Modality = modality
    return dataset


def as_ct(datasets: list[Dataset]) -> list[Dataset]:
    for dataset in datasets:
        dataset.SOPClassUID, dataset.Modality = CTImageStorage, "CT"
    return datasets


def position(affine: NDArray[np.float64], k: float) -> list[float]:
    """Of slice ``k``, LPS mm, as a decimal string has it."""
    return _decimals((LPS @ affine @ [0, 0, k, 1])[:3])


def _common(sop_class: str, voxels: NDArray[Any], attributes: dict[str, Any]) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = sop_class
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.FrameOfReferenceUID = generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.StudyDescription = PATIENT, PATIENT, PATIENT
    dataset.Modality, dataset.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M"]
    dataset.SliceThickness, dataset.SpacingBetweenSlices = 99, 77
    dataset.Columns, dataset.Rows = voxels.shape[:2]
    _set(dataset, PIXELS | {"PhotometricInterpretation": "MONOCHROME2"})
    dataset.BitsAllocated = 8 * voxels.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = dataset.BitsAllocated, dataset.BitsAllocated - 1
    dataset.PixelRepresentation = int(voxels.dtype.kind == "i")
    return dataset


def _slice(
    pixels: NDArray[Any], affine: NDArray[np.float64], k: int, common: Dataset, attributes: dict[str, Any]
) -> Dataset:
    dataset = deepcopy(common)
    dataset.SOPInstanceUID, dataset.InstanceNumber = generate_uid(), k + 1
    dataset.ImagePositionPatient = position(affine, k)
    dataset.ImageOrientationPatient, dataset.PixelSpacing = orientation(affine), spacing(affine)
    dataset.PixelData = np.ascontiguousarray(pixels.T).tobytes() + b"\0" * (pixels.nbytes % 2)
    _set(dataset, attributes)
    return dataset


def orientation(affine: NDArray[np.float64]) -> list[float]:
    directions = (LPS @ affine)[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    return _decimals(directions.T.ravel())


def spacing(affine: NDArray[np.float64]) -> list[float]:
    """Between rows, then between columns: the standard's order."""
    along, down = np.linalg.norm(affine[:3, :2], axis=0)
    return _decimals([down, along])


def _shared(affine: NDArray[np.float64]) -> Dataset:
    measures, plane = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness, measures.SpacingBetweenSlices = spacing(affine), 99, 77
    plane.ImageOrientationPatient = orientation(affine)
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([plane])
    return shared


def _frame(affine: NDArray[np.float64], k: int) -> Dataset:
    plane, content, frame = Dataset(), Dataset(), Dataset()
    plane.ImagePositionPatient = position(affine, k)
    content.StackID, content.InStackPositionNumber = "1", k + 1
    frame.PlanePositionSequence, frame.FrameContentSequence = Items([plane]), Items([content])
    return frame


def _set(dataset: Dataset, attributes: dict[str, Any]) -> None:
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)


def _decimals(values: Any) -> list[float]:
    """At most 16 characters each, as DICOM's decimal strings allow."""
    return [float(f"{value:.9g}") for value in values]
