"""A label map as a DICOM segmentation (PS3.3 A.51), one segment for each label that was found."""

import warnings
from collections.abc import Sequence

import highdicom
import numpy as np
from highdicom.color import CIELabColor
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from unet_factory.domain.manifest import Label
from unet_factory.domain.segmentation_parameters import SegmentationType
from unet_factory.volume.dicom import DicomSeries
from unet_factory_worker.dicom_results import coding, source
from unet_factory_worker.dicom_results.finishing import finish, series_numbers
from unet_factory_worker.dicom_results.provenance import CREATOR, FAMILY, MANUFACTURER, Provenance

_COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf", "#7f7f7f")
_LONG_STRING = 64


def segment_numbers(found: Sequence[Label], seg_type: SegmentationType) -> dict[int, int]:
    """Label value -> segment number: the values themselves in a label map, in a binary segmentation 1, 2, 3, ..."""
    if seg_type == "labelmap":
        return {label.value: label.value for label in found}
    return {label.value: number for number, label in enumerate(found, 1)}


def build_segmentation(
    labelmap: NDArray[np.uint8],
    series: DicomSeries,
    provenance: Provenance,
    found: Sequence[Label],
    seg_type: SegmentationType,
) -> Segmentation:
    """The segmentation of the scan ``series``, on its own frames.

    Args:
        labelmap: (column, row, slice), on the grid of ``series.header``.
        found: the labels that occur in it, at least one, by growing value.
    """
    header = series.datasets[0]
    numbers = segment_numbers(found, seg_type)
    filled = np.flatnonzero(labelmap.any(axis=(0, 1)))
    moment = provenance.moment(header)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values of the scan
        segmentation = Segmentation(
            source_images=source.stand_ins(series, filled.tolist()),
            pixel_array=_numbered(labelmap[:, :, filled], numbers),
            segmentation_type=seg_type.upper(),
            segment_descriptions=[_description(label, numbers[label.value], provenance) for label in found],
            series_instance_uid=provenance.uid("segmentation", "series"),
            series_number=series_numbers(header)[0],
            sop_instance_uid=provenance.uid("segmentation", "instance"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=provenance.model,
            software_versions=provenance.version,
            device_serial_number=provenance.checkpoint_digest[:_LONG_STRING],
            content_label="SEGMENTATION",
            content_description=", ".join(label.name for label in found)[:_LONG_STRING],
            series_description=f"{provenance.model} segmentation"[:_LONG_STRING],
            series_date=moment.date(),
            series_time=moment.time(),
            content_date=moment.date(),
            content_time=moment.time(),
            content_qualification=highdicom.ContentQualificationValues.RESEARCH,
            specific_character_set=None,
        )
    segmentation.ContentCreatorName = CREATOR
    _refer(segmentation, series)
    _name_dimensions(segmentation, provenance)
    finish(segmentation, header, moment)
    return segmentation


def _numbered(labelmap: NDArray[np.uint8], numbers: dict[int, int]) -> NDArray[np.uint8]:
    """(column, row, slice) label values -> (slice, row, column) segment numbers."""
    table = np.zeros(256, np.uint8)
    for value, number in numbers.items():
        table[value] = number
    return table[labelmap.transpose(2, 1, 0)]


def _description(label: Label, number: int, provenance: Provenance) -> SegmentDescription:
    tracking_id, tracking_uid = provenance.tracking(label)
    region = coding.region_of(label)
    description = SegmentDescription(
        segment_number=number,
        segment_label=label.name[:_LONG_STRING],
        segmented_property_category=coding.category_of(label),
        segmented_property_type=coding.type_of(label),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            provenance.model, FAMILY, provenance.version, MANUFACTURER, provenance.parameters()
        ),
        tracking_uid=tracking_uid,
        tracking_id=tracking_id,
        anatomic_regions=None if region is None else [region],
        display_color=CIELabColor.from_string(_COLORS[(label.value - 1) % len(_COLORS)]),
    )
    modifier = coding.modifier_of(label)
    if modifier is not None:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [CodedConcept.from_code(modifier)]
    return description


def _refer(segmentation: Dataset, series: DicomSeries) -> None:
    """Let frames refer to the scan's frames where they referred to stand-ins, and the object to all of the series."""
    indices = {source.placeholder(index): index for index in range(len(series.slices))}
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        for derivation in frame.DerivationImageSequence:
            for item in derivation.SourceImageSequence:
                index = indices.get(item.ReferencedSOPInstanceUID)
                if index is not None:  # else an item that several frames share
                    _name_frame(item, series, index)
    referred = source.references(series)
    segmentation.SourceImageSequence = referred
    series_item = Dataset()
    series_item.SeriesInstanceUID = series.datasets[0].SeriesInstanceUID
    series_item.ReferencedInstanceSequence = referred
    segmentation.ReferencedSeriesSequence = [series_item]


def _name_frame(item: Dataset, series: DicomSeries, index: int) -> None:
    of_object, frame = series.frames[index]
    header = series.datasets[of_object]
    item.update(source.reference(header))
    if source.is_multi_frame(header):
        item.ReferencedFrameNumber = frame


def _name_dimensions(segmentation: Dataset, provenance: Provenance) -> None:
    """The organisation's UID is highdicom's own invention; let it follow from the job too."""
    uid = provenance.uid("segmentation", "dimensions")
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
