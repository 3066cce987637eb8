"""What the hospital's test needs: real series and variants of them, and label maps read by others than we."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 (everybody calls it so)
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

Mask = NDArray[np.uint8]


def read_slices(folder: Path) -> list[Dataset]:
    """In the order of their positions on the slice normal."""
    slices = [dcmread(path) for path in folder.glob("*.dcm")]
    row, column = np.split(np.array(slices[0].ImageOrientationPatient, dtype=float), 2)
    normal = np.cross(row, column)
    return sorted(slices, key=lambda one: float(normal @ np.array(one.ImagePositionPatient, dtype=float)))


def variant(slices: Sequence[Dataset], index: int) -> list[Dataset]:
    """The series of another patient: mirrored and cropped in a way of its own, in the same place."""
    voxels = np.stack([one.pixel_array for one in slices])[6 + 2 * (index // 8) :][:16, 8:40, 2:34]
    for axis in range(3):
        voxels = np.flip(voxels, axis) if index >> axis & 1 else voxels
    made = copied(slices[: len(voxels)], PatientID=f"VARIANT-{index}")
    for one, pixels in zip(made, voxels, strict=True):
        one.Rows, one.Columns = pixels.shape
        one.PixelData = np.ascontiguousarray(pixels).tobytes()
    return made


def copied(slices: Sequence[Dataset], **attributes: str) -> list[Dataset]:
    """The same pixels under UIDs of their own."""
    shared = attributes | {
        keyword: generate_uid() for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    }
    copies = deepcopy(list(slices))
    for one in copies:
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        for keyword, value in shared.items():
            setattr(one, keyword, value)
    return copies


def saved(slices: Sequence[Dataset], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for index, one in enumerate(slices):
        one.save_as(folder / f"{index:03d}.dcm")
    return folder


def as_nifti(folder: Path, target: Path) -> Path:
    """The series as ITK's own reader sees it."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    sitk.WriteImage(reader.Execute(), str(target))
    return target


def labelmap(path: Path) -> Mask:
    """(slice, row, column) as ITK orders a series: axes to left, posterior and superior."""
    found: Mask = sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")).astype(np.uint8)
    return found


def segmented(seg: Dataset, slices: Sequence[Dataset]) -> Mask:
    """(slice, row, column) of a binary segmentation on its source, each frame placed by its own position."""
    heights = {tuple(np.round(np.array(one.ImagePositionPatient, float), 3)): k for k, one in enumerate(slices)}
    mask = np.zeros((len(slices), seg.Rows, seg.Columns), dtype=np.uint8)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for frame, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        position = group.PlanePositionSequence[0].ImagePositionPatient
        k = heights[tuple(np.round(np.array(position, float), 3))]
        mask[k][frame > 0] = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    return mask


def oriented(mask: Mask, slices: Sequence[Dataset]) -> Mask:
    """A mask on the slices as :func:`labelmap` orders it."""
    image = sitk.GetImageFromArray(mask)
    row, column = np.split(np.array(slices[0].ImageOrientationPatient, dtype=float), 2)
    image.SetDirection(np.stack([row, column, np.cross(row, column)], axis=1).ravel().tolist())
    found: Mask = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))
    return found
