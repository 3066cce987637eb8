"""One DICOM series as a volume."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from unet_factory.domain.errors import NotAVolume
from unet_factory.domain.image_choice import ANY_IMAGE, ImageChoice
from unet_factory.domain.spacing import SpacingMm
from unet_factory.domain.volume_limits import DEFAULT_LIMITS, VolumeLimits, check_limit
from unet_factory.volume.archive import Archive
from unet_factory.volume.dicom.choice import counted, images_of_series
from unet_factory.volume.dicom.objects import DicomObject, readable
from unet_factory.volume.dicom.padding import replace_far_padding
from unet_factory.volume.dicom.pixels import check_pixels, read_slices
from unet_factory.volume.dicom.slices import Slice, instance_name, slices_of
from unet_factory.volume.dicom.stack import Stack, stacked
from unet_factory.volume.dicom.values import texts
from unet_factory.volume.geometry import as_stored, trusted_grid
from unet_factory.volume.header import (
    Payload,
    StoredVolume,
    Volume,
    VolumeHeader,
    check_claims,
    header_of,
    payload_bytes,
)
from unet_factory.volume.payload import file_bytes

_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """A series that has been found to be one volume.

    ``datasets`` are the headers, without pixel data, in the order of the slices along their normal, which is the last
    axis of ``header.shape``; an enhanced multi-frame object is one of them. ``frames`` name for each slice its data set
    (index) and its frame (from 1). ``notes`` say what was chosen or tolerated, without a word of the patient's.
    """

    datasets: tuple[Dataset, ...]
    frames: tuple[tuple[int, int], ...]
    header: VolumeHeader
    notes: tuple[str, ...]
    slices: tuple[Slice, ...]


@dataclass(frozen=True, eq=False)
class DicomVolume(Volume):
    """A series' voxels, with the series whose headers DICOM results refer to."""

    series: DicomSeries


def read_series(
    path: Path,
    *,
    limits: VolumeLimits = DEFAULT_LIMITS,
    spacing_ras_mm: SpacingMm | None = None,
    series_uid: str | None = None,
    choice: ImageChoice = ANY_IMAGE,
) -> DicomSeries:
    """The one series with images in the zip archive, or the bare DICOM file, at ``path``; no pixel is decoded.

    The file axes are (column, row, slice), slices along the normal of the image plane; the affine follows PS3.3
    C.7.6.2, from ImageOrientationPatient, PixelSpacing and ImagePositionPatient alone, turned from LPS to RAS.
    ``spacing_ras_mm`` overrules spacings, ``series_uid`` chooses among several series, and ``choice`` among several
    images at each place.

    Raises:
        NotAVolume: damaged or truncated files, no grey images, or a compression that cannot be read.
        VolumeTooLarge: beyond ``limits``.
        SeriesMixed: several series and none named, or not the one named.
        SlicesInconsistent, SlicesAmbiguous, SlicesTilted, SlicesMissing, SlicesIrregular: no one even stack.
        GeometryInvalid: slices without position or orientation.
        SpacingInvalid: no pixel spacing or a single slice, and no spacing given.
    """
    check_limit("file size", "bytes", file_bytes(path), limits.compressed_bytes)
    with Archive(path, limits) as archive:
        images, notes = images_of_series(archive, limits, series_uid)
    with readable("a DICOM object"):
        dtypes = [check_pixels(image, instance_name(image.dataset)) for image in images]
        slices = [one for image in images for one in slices_of(image)]
        stack = stacked(slices, spacing_given=spacing_ras_mm is not None, choice=choice)
        missing = _missing_identifiers(stack)
    notes += stack.notes + _photometric(images) + _misstated(images)
    stored = _stored(stack, np.result_type(*dtypes), notes)
    check_claims(stored, limits)
    header = header_of(stored, trusted_grid(stored, spacing_ras_mm))
    header = replace(header, missing_identifiers=missing)
    sources = {one.source.member: one.source for one in stack.slices}
    places = {member: index for index, member in enumerate(sources)}
    return DicomSeries(
        datasets=tuple(source.dataset for source in sources.values()),
        frames=tuple((places[one.source.member], one.frame) for one in stack.slices),
        header=header,
        notes=notes,
        slices=stack.slices,
    )


def read_series_volume(
    path: Path,
    *,
    limits: VolumeLimits = DEFAULT_LIMITS,
    spacing_ras_mm: SpacingMm | None = None,
    choice: ImageChoice = ANY_IMAGE,
) -> DicomVolume:
    """The one series at ``path`` with its voxels: float32 in RAS+, rescaled frame by frame.

    Raises:
        NotAVolume: pixel data that cannot be decoded, or values that are not finite in float32.
        Otherwise as :func:`read_series`.
    """
    series = read_series(path, limits=limits, spacing_ras_mm=spacing_ras_mm, choice=choice)
    header = series.header
    data_ras = np.empty(header.shape_ras, np.float32)
    data = as_stored(data_ras, header.affine)
    with Archive(path, limits) as archive, np.errstate(over="ignore"):
        for index, pixels in read_slices(archive, series.slices, limits):
            data[:, :, index] = pixels.T
    _check_finite(data_ras)
    with readable("a DICOM object"):
        note = replace_far_padding(data, series.slices)
    noted = replace(header, notes=(*header.notes, note)) if note else header
    return DicomVolume(data_ras, header.spacing_ras_mm, noted, series)


def _stored(stack: Stack, dtype: np.dtype[np.generic], notes: tuple[str, ...]) -> StoredVolume:
    columns, rows = stack.slices[0].shape
    shape = (columns, rows, len(stack.slices))
    return StoredVolume(
        format="dicom",
        shape=shape,
        dtype=dtype,
        affine=stack.affine,
        affine_source="ImageOrientationPatient with ImagePositionPatient",
        declared_spacing_mm=stack.spacing_mm,
        spacing_source="PixelSpacing with ImagePositionPatient",
        payload=Payload(0, payload_bytes(shape, dtype)),
        notes=notes,
    )


def _missing_identifiers(stack: Stack) -> tuple[str, ...]:
    headers = [one.source.dataset for one in stack.slices]
    return tuple(name for name in _IDENTIFIERS if not all(_is_one(texts(header, name)) for header in headers))


def _is_one(values: Sequence[str]) -> bool:
    return len(values) == 1 and bool(values[0])


def _photometric(images: list[DicomObject]) -> tuple[str, ...]:
    found = ["".join(texts(image.dataset, "PhotometricInterpretation")).upper() for image in images]
    notes = {
        "MONOCHROME1": "{} to be shown inverted (MONOCHROME1); values taken as stored",
        "": "{} without a PhotometricInterpretation; values taken as stored",
    }
    return tuple(note.format(counted(found.count(value), "image")) for value, note in notes.items() if value in found)


def _misstated(images: list[DicomObject]) -> tuple[str, ...]:
    count = sum(not image.is_as_stated for image in images)
    verb, whose = ("is", "its") if count == 1 else ("are", "their")
    noted = f"{counted(count, 'image')} {verb} not encoded as {whose} meta information states; read as encoded"
    return (noted,) if count else ()


def _check_finite(data: NDArray[np.float32]) -> None:
    non_finite = data.size - int(np.count_nonzero(np.isfinite(data)))
    if non_finite:
        raise NotAVolume(
            f"{non_finite} of {data.size} voxels are beyond float32 after the rescale", non_finite_voxels=non_finite
        )
