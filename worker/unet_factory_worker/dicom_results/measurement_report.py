"""The volumes of a label map as a measurement report: Comprehensive 3D SR after TID 1500 (PS3.16)."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    ReferencedSegment,
    SourceImageForMeasurementGroup,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from unet_factory.domain.manifest import Label
from unet_factory.volume.dicom import DicomSeries
from unet_factory_worker.dicom_results import coding, source
from unet_factory_worker.dicom_results.finishing import finish, series_numbers
from unet_factory_worker.dicom_results.provenance import FAMILY, MANUFACTURER, Provenance

_DEVICE = Code("121007", "DCM", "Device")
_IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
_VOLUME = Code("118565006", "SCT", "Volume")
_MILLILITRE = Code("ml", "UCUM", "milliliter")
_OUT_OF_RANGE = Code("114009", "DCM", "Value out of range")  # PS3.16 CID 42, Numeric Value Qualifier
_DECIMALS = 6

_Group = VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations


def build_report(
    volumes_ml: Mapping[str, float],
    series: DicomSeries,
    provenance: Provenance,
    segmentation: Dataset | None,
    numbers: Mapping[int, int],
) -> Comprehensive3DSR:
    """The report of the volume of every label but the background; one that was not found has 0 ml and no segment.

    Args:
        volumes_ml: by label name.
        numbers: label value -> segment number in ``segmentation``, for the labels that were found.
    """
    header = series.datasets[0]
    moment = provenance.moment(header)
    groups = [
        _group(label, volumes_ml[label.name], series, provenance, segmentation, numbers.get(label.value))
        for label in provenance.labels
        if label.value != 0
    ]
    root = MeasurementReport(_observer(provenance), _IMAGING_PROCEDURE, groups)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values of the scan
        report = Comprehensive3DSR(
            evidence=_evidence(series, segmentation),
            content=_without_content(root),
            series_instance_uid=provenance.uid("report", "series"),
            series_number=series_numbers(header)[1],
            sop_instance_uid=provenance.uid("report", "instance"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=provenance.model,
            software_versions=provenance.version,
            device_serial_number=provenance.checkpoint_digest[:64],
            series_description=f"{provenance.model} volumes"[:64],
            series_date=moment.date(),
            series_time=moment.time(),
            content_date=moment.date(),
            content_time=moment.time(),
            is_complete=True,
            specific_character_set=None,
        )
    report.ContentSequence = root.ContentSequence
    _refer_to_all(report, series)
    finish(report, header, moment)
    return report


def _without_content(root: Dataset) -> ContainerContentItem:
    """highdicom goes through all that a report holds several times: half the time of all results, which is spared."""
    assert isinstance(root, ContainerContentItem)
    bare = ContainerContentItem(root.name, template_id=root.template_id)
    bare.ContentSequence = ContentSequence()
    return bare


def _observer(provenance: Provenance) -> ObservationContext:
    attributes = DeviceObserverIdentifyingAttributes(
        uid=provenance.device_uid(),
        name=provenance.model,
        manufacturer_name=MANUFACTURER,
        model_name=f"{MANUFACTURER} {provenance.version}",
        serial_number=provenance.checkpoint_digest,
    )
    return ObservationContext(observer_device_context=ObserverContext(CodedConcept.from_code(_DEVICE), attributes))


def _group(
    label: Label,
    volume_ml: float,
    series: DicomSeries,
    provenance: Provenance,
    segmentation: Dataset | None,
    number: int | None,
) -> _Group:
    tracking_id, tracking_uid = provenance.tracking(label)
    site = coding.site_of(label)
    qualifier = _OUT_OF_RANGE if provenance.doubts_volume(label) else None
    common: dict[str, Any] = {
        "tracking_identifier": TrackingIdentifier(tracking_uid, tracking_id),
        "finding_category": coding.category_of(label),
        "finding_type": coding.type_of(label),
        "finding_sites": None if site is None else [FindingSite(site[0], topographical_modifier=site[1])],
        "algorithm_id": _algorithm(provenance),
        "measurements": [Measurement(_VOLUME, round(volume_ml, _DECIMALS), _MILLILITRE, qualifier)],
    }
    if segmentation is None or number is None:
        return MeasurementsAndQualitativeEvaluations(**common, source_images=_images(series.datasets))
    segment = ReferencedSegment(
        segmentation.SOPClassUID,
        segmentation.SOPInstanceUID,
        number,
        source_series=SourceSeriesForSegmentation(series.datasets[0].SeriesInstanceUID),
    )
    return VolumetricROIMeasurementsAndQualitativeEvaluations(**common, referenced_segment=segment)


def _algorithm(provenance: Provenance) -> AlgorithmIdentification:
    parameters = [f"{name} = {value}" for name, value in provenance.parameters().items()]
    return AlgorithmIdentification(provenance.model, provenance.version, parameters, FAMILY, MANUFACTURER)


def _images(headers: Sequence[Dataset]) -> list[SourceImageForMeasurementGroup]:
    return [SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID) for header in headers]


def _evidence(series: DicomSeries, segmentation: Dataset | None) -> list[Dataset]:
    """The segmentation and an object of the scan, by their identifiers: the patient is copied in the end."""
    template, scan = source.stand_ins(series, [0])[0], series.datasets[0]
    headers = [scan] if segmentation is None else [segmentation, scan]
    return [_identified(template, header) for header in headers]


def _refer_to_all(report: Dataset, series: DicomSeries) -> None:
    """Name every object of the scan as evidence: for each that it is given, highdicom takes a while."""
    for study in report.CurrentRequestedProcedureEvidenceSequence:
        for one in study.ReferencedSeriesSequence:
            if one.SeriesInstanceUID == series.datasets[0].SeriesInstanceUID:
                one.ReferencedSOPSequence = source.references(series)


def _identified(template: Dataset, header: Dataset) -> Dataset:
    evidence = Dataset()
    evidence.update(template)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
        evidence.add_new(keyword, "UI", header[keyword].value)  # an element of its own: the template's are shared
    return evidence
