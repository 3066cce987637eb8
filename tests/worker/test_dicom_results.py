"""Segmentation objects and reports of DICOM scans: every voxel in its place, every code, every identifier."""

import itertools
import logging
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage

from tests.core.dicom_files import as_ct, enhanced, position, saved, series, zipped
from tests.core.volume_files import affine_ras, phantom, reoriented
from tests.worker.dicom_results import (
    HIPPOCAMPUS,
    LABELS,
    Files,
    Source,
    frames_by_source,
    positions_lps,
    provenance,
    results,
)
from unet_factory.errors import DicomIncomplete
from unet_factory.jobs import SegmentationType
from unet_factory.manifest import Label
from unet_factory.volume import read_header
from unet_factory.volume.dicom import pack_series, read_series

EXAMPLE = Path(__file__).parents[2] / "examples" / "dicom" / "PGBM-002_HippoCrop"
SHAPE = (5, 6, 7)
TYPES: tuple[SegmentationType, ...] = ("binary", "labelmap")
ORIENTATIONS = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
# What dciodvfy of 2022 finds in a label map segmentation. Its class is of 2024 (Supplement 243): the validator does not
# know the object, holds its background (segment 0, allowed there) for a misnumbered segment, and a reference to one of
# its segments for one to an image that has none.
UNKNOWN_TO_ITS_AGE = (
    "Information Object Not found",
    "SegmentNumber not monotonically increasing from one by one - have SegmentSequence item number 1 (from one)"
    " with SegmentNumber of 0",
    "Shall not be present for Referenced SOP Class that is not segmentation",
)


def labels_ras(shape: Sequence[int] = SHAPE, values: int = 4) -> NDArray[np.uint8]:
    """(r, a, s): labels 0 to ``values`` without any symmetry, and a slice of each axis without labels."""
    labels = np.random.default_rng(3).integers(0, values + 1, shape, np.uint8)
    labels[1], labels[:, 1], labels[:, :, 1] = 0, 0, 0
    return labels


@pytest.mark.parametrize(("kind", "seg_type"), [("single", "binary"), ("single", "labelmap"), ("enhanced", "binary")])
@pytest.mark.parametrize(("rotation_deg", "flip"), [(0, 1), (25, -1)])
@pytest.mark.parametrize("plane", ORIENTATIONS)
def test_every_voxel_comes_back_over_its_source(
    tmp_path: Path, plane: str, flip: int, rotation_deg: float, kind: str, seg_type: SegmentationType
) -> None:
    axes, flips = ORIENTATIONS[plane], (1, -1, flip)
    voxels, affine = reoriented(phantom(), affine_ras(rotation_deg), axes, flips)
    labels, _ = reoriented(labels_ras(), affine_ras(rotation_deg), axes, flips)  # (column, row, slice)
    scan, sources = (_enhanced if kind == "enhanced" else _single)(voxels, affine)
    seg = results(tmp_path, scan, labels_ras(), seg_type)["seg.dcm"]

    decoded = frames_by_source(seg)
    filled = [source for k, source in enumerate(sources) if labels[:, :, k].any()]
    assert decoded.keys() == set(filled)
    assert len(filled) < len(sources), "frames without labels are left out"
    for k, source in enumerate(sources):
        np.testing.assert_array_equal(decoded.get(source, np.zeros_like(labels[:, :, k].T)), labels[:, :, k].T)
    positions = positions_lps(seg)
    for k, source in enumerate(sources):
        assert positions.get(source, position(affine, k)) == position(affine, k), "on the very same frames"
    np.testing.assert_array_equal(_by_highdicom(seg, read_header(tmp_path / "scan.zip").affine), labels_ras())


def _single(voxels: NDArray[Any], affine: NDArray[np.float64]) -> tuple[list[Dataset], list[Source]]:
    """Shuffled images, and the name of each slice in the order of ``voxels``."""
    scan = series(voxels, affine)
    sources: list[Source] = [(str(one.SOPInstanceUID), None) for one in scan]
    return [scan[k] for k in _shuffled(len(scan))], sources


def _enhanced(voxels: NDArray[Any], affine: NDArray[np.float64]) -> tuple[list[Dataset], list[Source]]:
    order = _shuffled(voxels.shape[2])
    scan = enhanced(voxels, affine, order)
    return [scan], [(str(scan.SOPInstanceUID), order.index(k) + 1) for k in range(len(order))]


def _shuffled(count: int) -> list[int]:
    return [int(k) for k in np.random.default_rng(2).permutation(count)]


def _by_highdicom(seg: Path, affine: NDArray[np.float64]) -> NDArray[Any]:
    """The label map (r, a, s) as highdicom places it in space, on the grid of ``affine``, which it is not told."""
    read = highdicom.seg.segread(seg)
    numbers = {int(part.SegmentNumber): str(part.SegmentLabel) for part in read.SegmentSequence}
    values = {label.name: label.value for label in LABELS}
    volume = read.get_volume(combine_segments=True, skip_overlap_checks=True, allow_missing_positions=True)
    of_number = np.array([values.get(numbers.get(number, ""), 0) for number in range(max(numbers) + 1)], np.uint8)
    slices = of_number[volume.array]
    placed = np.zeros(SHAPE, np.uint8)
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    home = np.linalg.inv(_affine_of_ras_grid(affine)) @ to_ras
    for index in itertools.product(*map(range, slices.shape)):
        if slices[index]:
            spot = home @ [*index, 1]
            np.testing.assert_allclose(spot, np.round(spot), atol=1e-3)
            placed[tuple(np.round(spot[:3]).astype(int))] = slices[index]
    return placed


def _affine_of_ras_grid(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """``affine`` of the scan's own axes, for the same voxels along RAS+."""
    import nibabel

    shape_own = nibabel.orientations.io_orientation(affine)
    own = [SHAPE[int(axis)] for axis in shape_own[:, 0]]
    ras: NDArray[np.float64] = affine @ nibabel.orientations.inv_ornt_aff(shape_own, own)
    return ras


def scan_of(shape: tuple[int, int, int] = SHAPE, **attributes: Any) -> list[Dataset]:
    voxels, affine = reoriented(phantom(shape), affine_ras(25), (0, 1, 2), (-1, -1, 1))
    return series(voxels, affine, **attributes)


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
    assert _complaints(files["report.dcm"]) == []


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
    assert _complaints(files["seg.dcm"]) == []


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_scan_that_nothing_can_refer_to_is_refused(tmp_path: Path, missing: str) -> None:
    scan = scan_of()
    for one in scan:
        delattr(one, missing)
    with pytest.raises(DicomIncomplete, match=missing):
        results(tmp_path, scan, labels_ras())


def _complaints(file: Path) -> list[str]:
    """The errors that dciodvfy finds, without where."""
    validator = shutil.which("dciodvfy")
    if validator is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    told = subprocess.run([validator, "-new", str(file)], capture_output=True, text=True, check=False)
    return [line.rpartition("> - ")[2].removeprefix("Error - ") for line in _errors(told.stderr + told.stdout)]


def _errors(told: str) -> list[str]:
    return [line for line in told.splitlines() if line.startswith("Error")]


KINDS = {
    "MR": lambda: scan_of(),
    "CT": lambda: as_ct(scan_of()),
    "enhanced": lambda: [enhanced(*reoriented(phantom(), affine_ras(25), (2, 1, 0), (1, -1, 1)))],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_validator_finds_no_errors(tmp_path: Path, kind: str) -> None:
    files = results(tmp_path, KINDS[kind](), labels_ras())
    assert {name: _complaints(file) for name, file in files.items()} == {"seg.dcm": [], "report.dcm": []}


@pytest.mark.parametrize("kind", KINDS)
def test_the_validator_finds_in_a_labelmap_only_what_its_age_cannot_know(tmp_path: Path, kind: str) -> None:
    files = results(tmp_path, KINDS[kind](), labels_ras(), "labelmap")
    for file in files.values():
        assert set(_complaints(file)) <= set(UNKNOWN_TO_ITS_AGE)
    assert _complaints(files["seg.dcm"]), "the validator has learnt the class: take it off the list"


def test_a_real_series_gives_clean_results(tmp_path: Path) -> None:
    pack_series(sorted(EXAMPLE.glob("*.dcm")), tmp_path / "scan.zip")
    header = read_header(tmp_path / "scan.zip")
    files = results(tmp_path, tmp_path / "scan.zip", labels_ras(header.shape_ras, 2))
    assert [_complaints(file) for file in files.values()] == [[], []]
    sources = {str(dcmread(file).SOPInstanceUID) for file in EXAMPLE.glob("*.dcm")}
    assert {uid for uid, _ in frames_by_source(files["seg.dcm"])} < sources
