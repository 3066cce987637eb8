"""Small DICOM series made up for tests: MR slices of noise with UIDs of their own."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid


def mr_series(slices: int = 4, extent: int = 16, seed: int = 0, **attributes: object) -> list[Dataset]:
    """Axial slices 2 mm apart of ``extent`` x ``extent`` pixels of 1 mm; ``attributes`` are set on each."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    noise = np.random.default_rng(seed).integers(0, 1000, (slices, extent, extent), dtype=np.uint16)
    return [_slice(index, noise[index], (study, series, frame), attributes) for index in range(slices)]


def written(datasets: list[Dataset], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}.dcm" for index in range(len(datasets))]
    for dataset, path in zip(datasets, paths, strict=True):
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(path, enforce_file_format=True)
    return paths


def _slice(
    index: int, pixels: NDArray[np.uint16], uids: tuple[str, str, str], attributes: dict[str, object]
) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = uids
    dataset.PatientID, dataset.PatientName = "TEST-0", "Test^Nobody"
    dataset.PatientBirthDate, dataset.PatientSex = "", ""
    dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber, dataset.StudyID = "20260101", "120000", "", "1"
    dataset.ReferringPhysicianName, dataset.Manufacturer = "", "tests"
    dataset.Modality, dataset.SeriesDescription = "MR", "noise"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, index + 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "SE"]
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions, dataset.MRAcquisitionType = (
        "SE", "NONE", "", "3D",
    )  # fmt: skip
    dataset.ImagePositionPatient = [0.0, 0.0, 2.0 * index]
    dataset.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    dataset.PixelSpacing, dataset.SliceThickness = [1.0, 1.0], 2.0
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = pixels.astype("<u2").tobytes()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset
