"""The slices of image objects: a single-frame object is one, each frame of an enhanced multi-frame object another."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from unet_factory.domain.errors import GeometryInvalid, NotAVolume
from unet_factory.volume.dicom.objects import DicomObject, readable

_MOSAIC = "MOSAIC"
_COSINES_TOLERANCE = 1e-2  # of length 1, and of the right angle's cosine: real headers have four digits or more


@dataclass(frozen=True, eq=False)
class Slice:
    """One image plane, all that the volume needs of it.

    ``frame`` counts from 1. ``position_lps_mm`` (3,) is the centre of the first pixel, ``cosines`` (2, 3) the unit
    directions of growing column and row index, ``pixel_mm`` their spacings in this order (PS3.3 C.7.6.2, C.7.6.3); None
    where the header has none. ``identity`` holds what may tell apart slices at one position.
    """

    source: DicomObject
    frame: int
    name: str
    position_lps_mm: NDArray[np.float64]
    cosines: NDArray[np.float64]
    pixel_mm: tuple[float, float] | None
    slope: float
    inter: float
    identity: "Identity"

    @property
    def normal(self) -> NDArray[np.float64]:
        normal: NDArray[np.float64] = np.cross(self.cosines[0], self.cosines[1])
        return normal

    @property
    def frame_of_reference(self) -> str:
        return str(self.source.dataset.get("FrameOfReferenceUID", ""))

    @property
    def patient_id(self) -> str:
        return str(self.source.dataset.get("PatientID") or "").strip()

    @property
    def study(self) -> str:
        return str(self.source.dataset.get("StudyInstanceUID", ""))

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
    with readable(instance_name(source.dataset)):
        if "PerFrameFunctionalGroupsSequence" in source.dataset:
            return list(_enhanced(source))
        return [_single(source)]


def _single(source: DicomObject) -> Slice:
    dataset = source.dataset
    name = instance_name(dataset)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise GeometryInvalid(
            f"{name} has {frames} frames without positions of their own; send single-frame or enhanced images",
            frames=frames,
        )
    if _MOSAIC in _kind(dataset, "ImageType"):
        raise GeometryInvalid(f"{name} is a mosaic of many slices in one; send single slices or enhanced images")
    slope, inter = _rescale(name, dataset)
    return Slice(
        source=source,
        frame=1,
        name=name,
        position_lps_mm=_position(name, dataset),
        cosines=_cosines(name, dataset),
        pixel_mm=_pixel_mm(dataset),
        slope=slope,
        inter=inter,
        identity=Identity(
            echo_number=_whole(dataset, "EchoNumbers"),
            echo_time_ms=_number(dataset, "EchoTime"),
            temporal_position=_whole(dataset, "TemporalPositionIdentifier"),
            trigger_time_ms=_number(dataset, "TriggerTime"),
            b_value=_number(dataset, "DiffusionBValue"),
            acquisition=_whole(dataset, "AcquisitionNumber"),
            kind=_kind(dataset, "ImageType"),
        ),
    )


def _enhanced(source: DicomObject) -> Iterator[Slice]:
    """PS3.3 C.7.6.16: what a frame's own functional groups do not say is said by the shared ones."""
    dataset = source.dataset
    shared = _item(dataset, "SharedFunctionalGroupsSequence")
    per_frame = dataset.PerFrameFunctionalGroupsSequence
    if len(per_frame) != int(dataset.get("NumberOfFrames") or 0):
        raise NotAVolume(
            f"{instance_name(dataset)} states {dataset.get('NumberOfFrames')} frames and describes {len(per_frame)}"
        )
    for index, own in enumerate(per_frame):
        name = f"frame {index + 1} of {instance_name(dataset)}"
        groups = _Groups(own, shared)
        content = groups.item("FrameContentSequence")
        slope, inter = _rescale(name, groups.item("PixelValueTransformationSequence"))
        yield Slice(
            source=source,
            frame=index + 1,
            name=name,
            position_lps_mm=_position(name, groups.item("PlanePositionSequence")),
            cosines=_cosines(name, groups.item("PlaneOrientationSequence")),
            pixel_mm=_pixel_mm(groups.item("PixelMeasuresSequence")),
            slope=slope,
            inter=inter,
            identity=Identity(
                echo_number=None,
                echo_time_ms=_number(groups.item("MREchoSequence"), "EffectiveEchoTime"),
                temporal_position=_whole(content, "TemporalPositionIndex"),
                trigger_time_ms=_number(
                    groups.item("CardiacSynchronizationSequence"), "NominalCardiacTriggerDelayTime"
                ),
                b_value=_number(groups.item("MRDiffusionSequence"), "DiffusionBValue"),
                acquisition=_whole(content, "FrameAcquisitionNumber"),
                kind=_kind(groups.item("MRImageFrameTypeSequence"), "FrameType")
                or _kind(groups.item("CTImageFrameTypeSequence"), "FrameType"),
            ),
        )


@dataclass(frozen=True)
class _Groups:
    own: Dataset
    shared: Dataset

    def item(self, keyword: str) -> Dataset:
        return _item(self.own, keyword) or _item(self.shared, keyword)


def _item(dataset: Dataset, keyword: str) -> Dataset:
    """The only item of a sequence; an empty data set where there is none."""
    items = dataset.get(keyword)
    return items[0] if items else Dataset()


def instance_name(dataset: Dataset) -> str:
    """What a slice is called in messages."""
    with readable("an image"):
        number = _whole(dataset, "InstanceNumber")
    return "an image without a number" if number is None else f"image {number}"


def _position(name: str, dataset: Dataset) -> NDArray[np.float64]:
    position = _numbers(dataset, "ImagePositionPatient", 3)
    if position is None:
        raise GeometryInvalid(f"{name} has no ImagePositionPatient of three finite numbers, so its place is unknown")
    return position


def _cosines(name: str, dataset: Dataset) -> NDArray[np.float64]:
    """(2, 3) orthonormal: the second direction loses what rounding gave it of the first."""
    stated = _numbers(dataset, "ImageOrientationPatient", 6)
    if stated is None:
        raise GeometryInvalid(f"{name} has no ImageOrientationPatient of six finite numbers")
    along, down = stated.reshape(2, 3)
    lengths = np.linalg.norm(along), np.linalg.norm(down)
    if not np.allclose(lengths, 1, atol=_COSINES_TOLERANCE) or abs(along @ down) > _COSINES_TOLERANCE:
        raise GeometryInvalid(
            f"ImageOrientationPatient of {name}, {stated.tolist()}, is no pair of unit vectors at a right angle",
            cosines=stated.tolist(),
        )
    along = along / lengths[0]
    down = down - (along @ down) * along
    return np.stack([along, down / np.linalg.norm(down)])


def _pixel_mm(dataset: Dataset) -> tuple[float, float] | None:
    """(along the columns' index, along the rows' index): PixelSpacing states them the other way round."""
    values = dataset.get("PixelSpacing")
    if values is None or len(values) != 2:
        return None
    return float(values[1]), float(values[0])


def _rescale(name: str, dataset: Dataset) -> tuple[float, float]:
    slope, inter = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    factors = 1.0 if slope is None else float(slope), 0.0 if inter is None else float(inter)
    if factors[0] == 0 or not all(map(math.isfinite, factors)):
        raise NotAVolume(f"RescaleSlope {factors[0]:g} with RescaleIntercept {factors[1]:g} of {name} is no scaling")
    return factors


def _numbers(dataset: Dataset, keyword: str, count: int) -> NDArray[np.float64] | None:
    values = dataset.get(keyword)
    if values is None or isinstance(values, str) or np.size(values) != count:
        return None
    numbers = np.array([float(value) for value in values])
    return numbers if np.isfinite(numbers).all() else None


def _number(dataset: Dataset, keyword: str) -> float | None:
    value = dataset.get(keyword)
    return None if value in (None, "") or np.size(value) != 1 else float(value)


def _whole(dataset: Dataset, keyword: str) -> int | None:
    number = _number(dataset, keyword)
    return int(number) if number is not None and math.isfinite(number) else None


def _kind(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    values = dataset.get(keyword) or ()
    return (str(values),) if isinstance(values, str) else tuple(str(value) for value in values)
