"""DICOM results before an independent validator, dciodvfy."""

from pathlib import Path

import pytest
from pydicom import dcmread

from tests.fixtures.dicom_files import as_ct, enhanced
from tests.fixtures.dicom_results import (
    complaints,
    doubtful,
    frames_by_source,
    labels_ras,
    results,
    scan_of,
)
from tests.fixtures.project import DICOM_SERIES
from tests.fixtures.volume_files import affine_ras, phantom, reoriented
from unet_factory.volume import read_header
from unet_factory.volume.dicom import pack_series

# What dciodvfy of 2022 finds in a label map segmentation. Its class is of 2024 (Supplement 243): the validator does not
# know the object, holds its background (segment 0, allowed there) for a misnumbered segment, and a reference to one of
# its segments for one to an image that has none.
UNKNOWN_TO_ITS_AGE = (
    "Information Object Not found",
    "SegmentNumber not monotonically increasing from one by one - have SegmentSequence item number 1 (from one)"
    " with SegmentNumber of 0",
    "Shall not be present for Referenced SOP Class that is not segmentation",
)
KINDS = {
    "MR": lambda: scan_of(),
    "CT": lambda: as_ct(scan_of()),
    "enhanced": lambda: [enhanced(*reoriented(phantom(), affine_ras(25), (2, 1, 0), (1, -1, 1)))],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_validator_finds_no_errors(tmp_path: Path, kind: str) -> None:
    files = results(tmp_path, KINDS[kind](), labels_ras())
    assert {name: complaints(file) for name, file in files.items()} == {"seg.dcm": [], "report.dcm": []}


@pytest.mark.parametrize("kind", KINDS)
def test_the_validator_finds_in_a_labelmap_only_what_its_age_cannot_know(tmp_path: Path, kind: str) -> None:
    files = results(tmp_path, KINDS[kind](), labels_ras(), "labelmap")
    for file in files.values():
        assert set(complaints(file)) <= set(UNKNOWN_TO_ITS_AGE)
    assert complaints(files["seg.dcm"]), "the validator has learnt the class: take it off the list"


def test_the_validator_accepts_what_is_said_of_implausible_results(tmp_path: Path) -> None:
    files = results(tmp_path, scan_of(), labels_ras(), made=doubtful())
    assert {name: complaints(file) for name, file in files.items()} == {"seg.dcm": [], "report.dcm": []}


def test_a_real_series_gives_clean_results(tmp_path: Path) -> None:
    pack_series(sorted(DICOM_SERIES.glob("*.dcm")), tmp_path / "scan.zip")
    header = read_header(tmp_path / "scan.zip")
    files = results(tmp_path, tmp_path / "scan.zip", labels_ras(header.shape_ras, 2))
    assert [complaints(file) for file in files.values()] == [[], []]
    sources = {str(dcmread(file).SOPInstanceUID) for file in DICOM_SERIES.glob("*.dcm")}
    assert {uid for uid, _ in frames_by_source(files["seg.dcm"])} < sources
