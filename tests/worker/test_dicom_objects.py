"""What segmentation objects and reports say: codes, volumes, identifiers, patient and study."""

import logging
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage

from tests.fixtures.dicom_files import saved, zipped
from tests.fixtures.dicom_results import (
    HIPPOCAMPUS,
    LABELS,
    SHAPE,
    Files,
    complaints,
    doubtful,
    frames_by_source,
    labels_ras,
    provenance,
    results,
    scan_of,
)
from unet_factory.domain.errors import DicomIncomplete
from unet_factory.domain.manifest import Label
from unet_factory.domain.segmentation_parameters import SegmentationType
from unet_factory.volume import read_header
from unet_factory.volume.dicom import read_series

TYPES: tuple[SegmentationType, ...] = ("binary", "labelmap")
ODD: dict[str, Any] = {
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientName": "Müller=x^Jürgen^^Dr. " + "x" * 70,
    "PatientID": " 0815 \\ 4711 / ÄÖ",
    "PatientBirthDate": "1970.01.01",
    "PatientSex": "W",
    "PatientAge": "56 Y",
    "PatientComments": "allergic",
    "StudyDate": "yesterday",
    "StudyTime": "25:99",
    "StudyID": "S" * 30,
    "AccessionNumber": "A" * 30,
    "StudyDescription": "Schädel " + "y" * 80,
    "ReferringPhysicianName": "Größe",
    "TimezoneOffsetFromUTC": "+0530",
}


@pytest.fixture(params=TYPES)
def seg_type(request: pytest.FixtureRequest) -> SegmentationType:
    kind: SegmentationType = request.param
    return kind


def test_codes_identify_what_was_segmented(tmp_path: Path, seg_type: SegmentationType) -> None:
    seg = highdicom.seg.segread(results(tmp_path, scan_of(), labels_ras(), seg_type)["seg.dcm"])
    first, second, third, fourth = (seg.get_segment_description(number) for number in range(1, 5))
    for described, modifier in ((first, codes.SCT.Anterior), (second, codes.SCT.Posterior)):
        assert _triple(described.segmented_property_category) == ("SCT", "123037004", "Anatomical Structure")
        assert _triple(described.segmented_property_type) == HIPPOCAMPUS
        (found,) = described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
        assert (found.CodeValue, found.CodingSchemeDesignator) == (modifier.value, "SCT")
        assert described.anatomic_regions == []
    assert _triple(third.segmented_property_category) == LABELS[3].category
    assert [_triple(region) for region in third.anatomic_regions] == [LABELS[3].region]
    assert _triple(fourth.segmented_property_type) == ("SCT", "91723000", "Anatomical Structure")
    (algorithm,) = first.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("tiny", provenance().version)
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == codes.DCM.ArtificialIntelligence.value
    assert f"checkpoint=sha256:{'ab' * 32}" in algorithm.AlgorithmParameters
    assert "weights made for spacing (mm, R A S)=1 x 2 x 2.45" in algorithm.AlgorithmParameters
    assert (first.SegmentAlgorithmType, seg.SegmentationType) == ("AUTOMATIC", seg_type.upper())


def test_the_report_says_volumes_spacings_and_segments(tmp_path: Path, seg_type: SegmentationType) -> None:
    labels = labels_ras()
    labels[labels == 2] = 0
    scan = scan_of()
    files = results(tmp_path, scan, labels, seg_type)
    seg, report = dcmread(files["seg.dcm"]), highdicom.sr.srread(files["report.dcm"])
    numbers = {part.SegmentLabel: part.SegmentNumber for part in seg.SegmentSequence}
    assert "posterior" not in numbers
    assert report.SOPClassUID == Comprehensive3DSRStorage
    content: Any = report.content
    found = content.get_volumetric_roi_measurement_groups()
    assert len(found) == 3
    for label, group in zip((LABELS[1], LABELS[3], LABELS[4]), found, strict=True):
        tracking_id, tracking_uid = provenance().tracking(label)
        assert (group.tracking_identifier, group.tracking_uid) == (tracking_id, tracking_uid)
        assert _volume_ml(group) == pytest.approx(0.5 * np.count_nonzero(labels == label.value))
        segment = group.referenced_segment
        assert segment.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert segment.referenced_segment_numbers == [numbers[label.name]]
        (described,) = (part for part in seg.SegmentSequence if part.SegmentLabel == label.name)
        assert (described.TrackingID, described.TrackingUID) == (tracking_id, tracking_uid)
    (absent,) = content.get_image_measurement_groups()
    assert absent.tracking_identifier == "tiny: posterior"
    assert _volume_ml(absent) == 0
    texts = [item.TextValue for item in found[0][0].ContentSequence if item.ValueType == "TEXT"]
    for said in (
        f"checkpoint = sha256:{'ab' * 32}",
        "native spacing (mm, R A S) = 1 x 2 x 3",
        "working spacing (mm, R A S) = 1 x 2 x 2.5",
        "weights made for spacing (mm, R A S) = 1 x 2 x 2.45",
        "policy outside the trained range = clamp",
        "resampled = yes",
    ):
        assert said in texts
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    referred = {item.ReferencedSOPInstanceUID for one in evidence for item in one.ReferencedSOPSequence}
    assert referred == {seg.SOPInstanceUID, *(one.SOPInstanceUID for one in scan)}


def test_the_report_doubts_what_is_implausible(tmp_path: Path) -> None:
    files = results(tmp_path, scan_of(), labels_ras(), made=doubtful())
    content: Any = highdicom.sr.srread(files["report.dcm"]).content
    groups = content.get_volumetric_roi_measurement_groups()
    qualifiers = [group.get_measurements(name=codes.SCT.Volume)[0].qualifier for group in groups]
    assert [qualifier is not None for qualifier in qualifiers] == [False, True, False, False]
    assert _triple(qualifiers[1]) == ("DCM", "114009", "Value out of range")
    said = "field of view along S is 155 mm, expected 17.3 to 69.1 mm; volume of posterior is 150 ml, expected 0.693 to"
    for group in groups:
        assert any(said in item.TextValue for item in group[0].ContentSequence if item.ValueType == "TEXT")
    (algorithm,) = dcmread(files["seg.dcm"]).SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert said in str(algorithm.AlgorithmParameters)


def test_a_plausible_result_is_not_doubted(tmp_path: Path) -> None:
    report = dcmread(results(tmp_path, scan_of(), labels_ras())["report.dcm"])
    assert "NumericValueQualifierCodeSequence" not in {element.keyword for element in report.iterall()}
    assert "IMPLAUSIBLE" not in str(report)


def _volume_ml(group: Any) -> float:
    (measured,) = group.get_measurements(name=codes.SCT.Volume)
    assert (measured.unit.value, measured.unit.scheme_designator) == ("ml", "UCUM")
    return float(measured.value)


def _triple(code: Any) -> tuple[str, str, str]:
    return code.scheme_designator, code.value, code.meaning


def test_only_what_is_there_becomes_a_segment(tmp_path: Path) -> None:
    only_tumour = np.where(labels_ras() == 3, np.uint8(3), np.uint8(0))
    for seg_type, number in (("binary", 1), ("labelmap", 3)):
        file = results(tmp_path / seg_type, scan_of(), only_tumour, seg_type)["seg.dcm"]  # type: ignore[arg-type]
        described = [part for part in dcmread(file).SegmentSequence if part.SegmentNumber]
        assert [(part.SegmentNumber, part.SegmentLabel) for part in described] == [(number, "tumour")]
        np.testing.assert_array_equal(
            np.unique(np.concatenate([frame.ravel() for frame in frames_by_source(file).values()])), [0, 3]
        )


def test_where_nothing_was_found_there_is_a_report_of_zeros(tmp_path: Path) -> None:
    files = results(tmp_path, scan_of(), np.zeros(SHAPE, np.uint8))
    assert files.keys() == {"report.dcm"}
    content: Any = highdicom.sr.srread(files["report.dcm"]).content
    assert [_volume_ml(group) for group in content.get_image_measurement_groups()] == [0, 0, 0, 0]
    assert complaints(files["report.dcm"]) == []


def test_a_repeated_job_gives_the_same_bytes_and_another_job_other_identifiers(
    tmp_path: Path, seg_type: SegmentationType
) -> None:
    scan = zipped(scan_of(), tmp_path / "scan.zip")
    first, again, other = (
        results(tmp_path / name, scan, labels_ras(), seg_type, provenance(job_id))
        for name, job_id in (("first", "0" * 32), ("again", "0" * 32), ("other", "1" * 32))
    )
    for name in ("seg.dcm", "report.dcm"):
        assert first[name].read_bytes() == again[name].read_bytes()
    shared = _own_uids(first, scan) & _own_uids(other, scan)
    assert shared == {provenance().device_uid()}, "the same device made both, and nothing else is shared"


def _own_uids(files: Files, scan: Path) -> set[str]:
    """All UIDs in the results but classes, syntaxes and those of the scan."""
    found = {str(element.value) for file in files.values() for element in dcmread(file).iterall() if element.VR == "UI"}
    sources = {
        str(element.value) for one in read_series(scan).datasets for element in one.iterall() if element.VR == "UI"
    }
    return {uid for uid in found - sources if not uid.startswith("1.2.840.10008.")}


def test_patient_and_study_are_copied_as_they_stand(
    tmp_path: Path, seg_type: SegmentationType, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    scan = scan_of(BodyPartExamined="BRAIN", SeriesNumber=7, **ODD)
    source = dcmread(saved(scan, tmp_path / "files")[0])
    caplog.clear()
    for file in results(tmp_path, scan, labels_ras(), seg_type).values():
        made = dcmread(file)
        assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
        for keyword in (*ODD, "StudyInstanceUID"):
            assert made[keyword].value == source[keyword].value, keyword
        assert made.PatientID == source.PatientID
        assert (made.ContentDate, made.ContentTime) == ("20260101", "053000.250000"), "by the scan's own clock"
        assert made.SeriesInstanceUID != source.SeriesInstanceUID
        assert int(made.SeriesNumber) // 100 == 7
        assert made.SeriesDescription.startswith("tiny ")
    written = caplog.text + "".join(capfd.readouterr())
    for word in ("Müller", "0815", "allergic", "yesterday", "Größe", source.StudyInstanceUID):
        assert word not in written


def test_it_refers_to_the_scan_and_its_frame_of_reference(tmp_path: Path, seg_type: SegmentationType) -> None:
    scan = scan_of()
    seg = dcmread(results(tmp_path, scan, labels_ras(), seg_type)["seg.dcm"])
    assert seg.FrameOfReferenceUID == scan[0].FrameOfReferenceUID
    (referred,) = seg.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == scan[0].SeriesInstanceUID
    uids = {item.ReferencedSOPInstanceUID for item in referred.ReferencedInstanceSequence}
    assert uids == {one.SOPInstanceUID for one in scan}, "also the slices without labels"
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(read_header(tmp_path / "scan.zip").spacing_ras_mm[2])


def test_words_beyond_the_scans_character_set_are_kept(tmp_path: Path) -> None:
    labels = (LABELS[0], Label(value=1, name="海馬"))
    made = provenance(labels=labels)
    scan = scan_of(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    files = results(tmp_path, scan, np.minimum(labels_ras(), 1), made=made)
    seg = dcmread(files["seg.dcm"])
    assert seg.SegmentSequence[0].SegmentLabel == "海馬"
    assert seg.PatientName == "Müller^Jürgen"
    assert complaints(files["seg.dcm"]) == []


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_scan_that_nothing_can_refer_to_is_refused(tmp_path: Path, missing: str) -> None:
    scan = scan_of()
    for one in scan:
        delattr(one, missing)
    with pytest.raises(DicomIncomplete, match=missing):
        results(tmp_path, scan, labels_ras())
