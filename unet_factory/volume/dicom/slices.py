"""The slices of image objects: a single-frame object is one, each frame of an enhanced multi-frame object another."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from unet_factory.domain.errors import GeometryInvalid, NotAVolume
from unet_factory.volume.dicom.objects import DicomObject, readable
from unet_factory.volume.dicom.values import (
    UnreadableNumbersError,
    number_or_none,
    numbers,
    texts,
    whole,
    whole_or_none,
)

_MOSAIC = "MOSAIC"
_COMPONENT = "ComplexImageComponent"
_FRAME_TYPES = (
    *("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence"),
    *("XRay3DFrameTypeSequence", "USImageDescriptionSequence"),
)
_COSINES_TOLERANCE = 1e-2  # of length 1, and of the right angle's cosine: real headers have four digits or more


@dataclass(frozen=True, eq=False)
class Slice:
    """One image plane, all that the volume needs of it.

    ``frame`` counts from 1. ``position_lps_mm`` (3,) is the centre of the first pixel, ``cosines`` (2, 3) the unit
    directions of growing column and row index, ``pixel_mm`` their spacings in this order (PS3.3 C.7.6.2, C.7.6.3); None
    where the header has none, and ``pixel_fault`` says so where it has one that cannot be read. ``identity``
    holds what may tell apart slices at one position.
    """

    source: DicomObject
    frame: int
    name: str
    position_lps_mm: NDArray[np.float64]
    cosines: NDArray[np.float64]
    pixel_mm: tuple[float, float] | None
    pixel_fault: str
    slope: float
    inter: float
    identity: "Identity"

    @property
    def normal(self) -> NDArray[np.float64]:
        normal: NDArray[np.float64] = np.cross(self.cosines[0], self.cosines[1])
        return normal

    @property
    def place_mm(self) -> float:
        """Along the slice's own normal."""
        return float(self.position_lps_mm @ self.normal)

    @property
    def frame_of_reference(self) -> str:
        return "\\".join(texts(self.source.dataset, "FrameOfReferenceUID"))

    @property
    def patient_id(self) -> str:
        return "\\".join(texts(self.source.dataset, "PatientID"))

    @property
    def study(self) -> str:
        return "\\".join(texts(self.source.dataset, "StudyInstanceUID"))

    @property
    def shape(self) -> tuple[int, int]:
        """(columns, rows)"""
        return int(self.source.dataset.Columns), int(self.source.dataset.Rows)


@dataclass(frozen=True)
class Identity:
    """Why there may be several slices at one position; None where the header does not say."""

    echo_number: int | None
    echo_time_ms: float | None
    temporal_position: int | None
    trigger_time_ms: float | None
    b_value: float | None
    acquisition: int | None
    kind: tuple[str, ...]


def slices_of(source: DicomObject) -> list[Slice]:
    """In the order of the frames.

    Raises:
        NotAVolume: a header whose values cannot be read.
        GeometryInvalid: a slice without position or orientation.
    """
    name = instance_name(source.dataset)
    with readable(name):
        if "PerFrameFunctionalGroupsSequence" in source.dataset:
            return list(_enhanced(source))
        return [_single(source, name)]


def _single(source: DicomObject, name: str) -> Slice:
    dataset = source.dataset
    frames = whole(dataset, "NumberOfFrames", name, 1)
    if frames != 1:
        raise GeometryInvalid(
            f"{name} has {frames} frames without positions of their own; send single-frame or enhanced images",
            frames=frames,
        )
    if _MOSAIC in _kind(dataset, "ImageType"):
        raise GeometryInvalid(f"{name} is a mosaic of many slices in one; send single slices or enhanced images")
    slope, inter = _rescale(name, dataset)
    pixel_mm, pixel_fault = _pixel_mm(dataset)
    return Slice(
        source=source,
        frame=1,
        name=name,
        position_lps_mm=_position(name, dataset),
        cosines=_cosines(name, dataset),
        pixel_mm=pixel_mm,
        pixel_fault=pixel_fault,
        slope=slope,
        inter=inter,
        identity=Identity(
            echo_number=whole_or_none(dataset, "EchoNumbers"),
            echo_time_ms=_positive(number_or_none(dataset, "EchoTime")),
            temporal_position=whole_or_none(dataset, "TemporalPositionIdentifier"),
            trigger_time_ms=number_or_none(dataset, "TriggerTime"),
            b_value=number_or_none(dataset, "DiffusionBValue"),
            acquisition=whole_or_none(dataset, "AcquisitionNumber"),
            kind=_kind(dataset, "ImageType", _COMPONENT),
        ),
    )


def _enhanced(source: DicomObject) -> Iterator[Slice]:
    """PS3.3 C.7.6.16: what a frame's own functional groups do not say is said by the shared ones."""
    dataset = source.dataset
    shared = _item(dataset, "SharedFunctionalGroupsSequence")
    per_frame = dataset.PerFrameFunctionalGroupsSequence
    frames = whole(dataset, "NumberOfFrames", instance_name(dataset), 0)
    if len(per_frame) != frames:
        raise NotAVolume(f"{instance_name(dataset)} states {frames} frames and describes {len(per_frame)}")
    for index, own in enumerate(per_frame):
        name = f"frame {index + 1} of {instance_name(dataset)}"
        groups = _Groups(own, shared)
        content = groups.item("FrameContentSequence")
        slope, inter = _rescale(name, groups.item("PixelValueTransformationSequence"))
        pixel_mm, pixel_fault = _pixel_mm(groups.item("PixelMeasuresSequence"))
        yield Slice(
            source=source,
            frame=index + 1,
            name=name,
            position_lps_mm=_position(name, groups.item("PlanePositionSequence")),
            cosines=_cosines(name, groups.item("PlaneOrientationSequence")),
            pixel_mm=pixel_mm,
            pixel_fault=pixel_fault,
            slope=slope,
            inter=inter,
            identity=Identity(
                echo_number=None,
                echo_time_ms=_positive(number_or_none(groups.item("MREchoSequence"), "EffectiveEchoTime")),
                temporal_position=whole_or_none(content, "TemporalPositionIndex"),
                trigger_time_ms=number_or_none(
                    groups.item("CardiacSynchronizationSequence"), "NominalCardiacTriggerDelayTime"
                ),
                b_value=number_or_none(groups.item("MRDiffusionSequence"), "DiffusionBValue"),
                acquisition=whole_or_none(content, "FrameAcquisitionNumber"),
                kind=_frame_kind(groups, dataset),
            ),
        )


@dataclass(frozen=True)
class _Groups:
    own: Dataset
    shared: Dataset

    def item(self, keyword: str) -> Dataset:
        return _item(self.own, keyword) or _item(self.shared, keyword)


def _item(dataset: Dataset, keyword: str) -> Dataset:
    """The only item of a sequence; an empty data set if there is none."""
    items = dataset.get(keyword)
    return items[0] if items else Dataset()


def instance_name(dataset: Dataset) -> str:
    """What a slice is called in messages."""
    with readable("an image"):
        number = whole_or_none(dataset, "InstanceNumber")
    return "an image without a number" if number is None else f"image {number}"


def _position(name: str, dataset: Dataset) -> NDArray[np.float64]:
    return _vector(name, dataset, "ImagePositionPatient", 3, "three")


def _cosines(name: str, dataset: Dataset) -> NDArray[np.float64]:
    """(2, 3) orthonormal: the second direction loses what rounding gave it of the first."""
    stated = _vector(name, dataset, "ImageOrientationPatient", 6, "six")
    along, down = stated.reshape(2, 3)
    lengths = _length(along), _length(down)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(along @ down))) > _COSINES_TOLERANCE:
        raise GeometryInvalid(
            f"ImageOrientationPatient of {name}, {stated.tolist()}, is not a pair of unit vectors at a right angle",
            cosines=stated.tolist(),
        )
    along = along / lengths[0]
    down = down - (along @ down) * along
    return np.array([along, down / _length(down)])


def _length(vector: NDArray[np.float64]) -> float:
    return math.sqrt(float(vector @ vector))


def _vector(name: str, dataset: Dataset, keyword: str, count: int, in_words: str) -> NDArray[np.float64]:
    try:
        values = numbers(dataset, keyword)
    except UnreadableNumbersError as error:
        raise GeometryInvalid(f"{name} cannot be placed: {error}; {in_words} finite numbers are needed") from None
    if len(values) != count or not all(map(math.isfinite, values)):
        raise GeometryInvalid(f"{name} has no {keyword} of {in_words} finite numbers, so its place is unknown")
    return np.array(values)


def _pixel_mm(dataset: Dataset) -> tuple[tuple[float, float] | None, str]:
    """(along the columns' index, along the rows' index), which PixelSpacing states the other way round; and what is
    wrong where it cannot be read."""
    try:
        values = numbers(dataset, "PixelSpacing")
    except UnreadableNumbersError as error:
        return None, str(error)
    return ((values[1], values[0]), "") if len(values) == 2 else (None, "")


def _rescale(name: str, dataset: Dataset) -> tuple[float, float]:
    try:
        slope, inter = numbers(dataset, "RescaleSlope") or (1.0,), numbers(dataset, "RescaleIntercept") or (0.0,)
    except UnreadableNumbersError as error:
        raise NotAVolume(f"the values of {name} cannot be rescaled: {error}") from None
    factors = slope[0], inter[0]
    if max(len(slope), len(inter)) > 1 or factors[0] == 0 or not all(map(math.isfinite, factors)):
        raise NotAVolume(
            f"RescaleSlope {factors[0]:g} with RescaleIntercept {factors[1]:g} of {name} is not a valid scaling"
        )
    return factors


def _positive(number: float | None) -> float | None:
    """A time that a header has as 0 is one that it does not know."""
    return number if number is not None and number > 0 else None


def _kind(dataset: Dataset, *keywords: str) -> tuple[str, ...]:
    return tuple(value.upper() for keyword in keywords for value in texts(dataset, keyword) if value)


def _frame_kind(groups: _Groups, dataset: Dataset) -> tuple[str, ...]:
    items = (groups.item(keyword) for keyword in _FRAME_TYPES)
    return next((kind for item in items if (kind := _kind(item, "FrameType", _COMPONENT))), _kind(dataset, "ImageType"))
