"""Several images at one place, copies, numbers that nobody needs: what is taken, and what is refused in which words."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.uid as uids
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from tests.fixtures.dicom_files import PATIENT, as_bytes, enhanced, position, series, zipped
from tests.fixtures.volume_files import affine_ras, phantom
from unet_factory.domain.errors import (
    GeometryInvalid,
    MalformedRequest,
    NotAVolume,
    SlicesAmbiguous,
    SlicesInconsistent,
    SpacingInvalid,
)
from unet_factory.domain.image_choice import ImageChoice
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory.volume import read_header, read_volume
from unet_factory.volume.dicom import read_series

SCAN = phantom()
AFFINE = affine_ras()
ORIGINAL = ["ORIGINAL", "PRIMARY", "M", "FFE"]


def both(first: dict[str, Any], second: dict[str, Any]) -> list[Dataset]:
    """One series of two images at each place; the voxels of the second are others."""
    slices, others = series(SCAN, AFFINE, **first), series(SCAN + 1, AFFINE, **second)
    for one in others:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(one, keyword, slices[0][keyword].value)
        one.InstanceNumber += len(slices)
    return [*slices, *others]


OTHERS: dict[str, dict[str, Any]] = {
    "a map without an echo time": {"ImageType": ["DERIVED", "PRIMARY", "T2", "MAP"], "EchoTime": None},
    "a map with a shorter echo time": {"ImageType": ["DERIVED", "PRIMARY", "ADC"], "EchoTime": "2"},
    "a map whose echo time is 0": {"ImageType": ["DERIVED", "PRIMARY", "M", "FFE"], "EchoTime": "0"},
    "a phase": {"ImageType": ["ORIGINAL", "PRIMARY", "P", "FFE"], "EchoTime": "2"},
    "water": {"ImageType": ["DERIVED", "PRIMARY", "W", "FFE"], "EchoTime": "2"},
    "out of phase": {"ImageType": ["ORIGINAL", "PRIMARY", "OP", "FFE"], "EchoTime": "2"},
    "an imaginary part": {"ImageType": ORIGINAL, "ComplexImageComponent": "IMAGINARY", "EchoTime": "2"},
    "no image type": {"ImageType": None, "EchoTime": "2"},
}


@pytest.mark.parametrize("other", OTHERS)
def test_images_of_other_kinds_are_never_taken_for_echoes(tmp_path: Path, other: str) -> None:
    path = zipped(both({"ImageType": ORIGINAL, "EchoTime": "5"}, OTHERS[other]), tmp_path / "a.zip")
    with pytest.raises(SlicesAmbiguous, match=r"7 of 7 places.*2 image types") as caught:
        read_header(path)
    assert r"ORIGINAL\PRIMARY\M\FFE: 7 slices, echo time 5 ms" in str(caught.value)
    assert "image_type" in str(caught.value)
    volume = read_volume(path, choice=ImageChoice(tuple(ORIGINAL), echo_time_ms=5))
    np.testing.assert_array_equal(volume.data, SCAN)


def test_a_missing_echo_time_is_not_zero(tmp_path: Path) -> None:
    path = zipped(both({"EchoTime": "5"}, {"EchoTime": None}), tmp_path / "a.zip")
    with pytest.raises(SlicesAmbiguous, match="2 echo times"):
        read_header(path)
    np.testing.assert_array_equal(read_volume(path, choice=ImageChoice(echo_time_ms=5)).data, SCAN)


def test_the_caller_chooses(tmp_path: Path) -> None:
    path = zipped(
        both({"ImageType": ORIGINAL, "EchoTime": "5"}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"], "EchoTime": "10"}),
        tmp_path / "a.zip",
    )
    for image_type, echo_time_ms, voxels in (("M", "5", SCAN), ("original\\primary\\p", "10", SCAN + 1)):
        asked = SegmentationParameters.from_texts({"image_type": image_type, "echo_time_ms": echo_time_ms})
        assert SegmentationParameters.from_texts(asked.to_texts()) == asked
        choice = asked.image_choice
        np.testing.assert_array_equal(read_volume(path, choice=choice).data, voxels)
    with pytest.raises(
        SlicesAmbiguous, match=r"no image .* there are ORIGINAL\\PRIMARY\\M\\FFE: 7 slices, echo time 5"
    ):
        read_header(path, choice=ImageChoice(("W",)))


@pytest.mark.parametrize("text", ["", "\\", "A" * 17, "A," * 20 + "A", "M;P", "M\u00e4"])
def test_an_image_type_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest, match="image_type"):
        SegmentationParameters.from_texts({"image_type": text})


@pytest.mark.parametrize("text", ["", "4,6", "-1", "0", "nan", "inf", "1_0"])
def test_an_echo_time_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest, match="echo_time_ms"):
        SegmentationParameters.from_texts({"echo_time_ms": text})


def test_the_echo_number_in_an_image_type_is_no_kind(tmp_path: Path) -> None:
    path = zipped(
        both({"ImageType": [*ORIGINAL, "TE1"], "EchoTime": "5"}, {"ImageType": [*ORIGINAL, "TE2"], "EchoTime": "9"}),
        tmp_path / "a.zip",
    )
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, SCAN)
    assert "first of 2 echoes (echo time 5 ms)" in volume.header.notes[0]


def test_frames_of_a_magnitude_and_a_phase_are_ambiguous(tmp_path: Path) -> None:
    scanned = enhanced(np.concatenate([SCAN, SCAN + 1], axis=2), AFFINE)
    for index, frame in enumerate(scanned.PerFrameFunctionalGroupsSequence):
        kind = Dataset()
        kind.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        kind.ComplexImageComponent = "MAGNITUDE" if index < 7 else "PHASE"
        frame.MRImageFrameTypeSequence = [kind]
        frame.PlanePositionSequence[0].ImagePositionPatient = position(AFFINE, index % 7)
    (tmp_path / "scan").write_bytes(as_bytes(scanned))
    with pytest.raises(SlicesAmbiguous, match=r"NONE\\MAGNITUDE: 7 slices, .*NONE\\PHASE: 7 slices"):
        read_header(tmp_path / "scan")
    choice = ImageChoice(("PHASE",))
    np.testing.assert_array_equal(read_volume(tmp_path / "scan", choice=choice).data, SCAN + 1)


def test_a_stack_of_two_contents_is_none(tmp_path: Path) -> None:
    slices = series(SCAN, AFFINE)
    for one in slices[4:]:
        one.ImageType = ["ORIGINAL", "PRIMARY", "P"]
    with pytest.raises(SlicesAmbiguous, match="different things"):
        read_header(zipped(slices, tmp_path / "a.zip"))


def test_an_image_type_that_is_no_code_string_is_not_quoted(tmp_path: Path) -> None:
    path = zipped(both({}, {"ImageType": ["ORIGINAL", "PRIMARY", f"{PATIENT}'s"]}), tmp_path / "a.zip")
    with pytest.raises(SlicesAmbiguous) as caught:
        read_header(path)
    assert PATIENT not in str(caught.value)


Change = Callable[[Dataset], Any]


def set_to(**attributes: Any) -> Change:
    def change(dataset: Dataset) -> None:
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)

    return change


def in_other_words(dataset: Dataset) -> None:
    dataset.file_meta.ImplementationVersionName = "OTHER_1"
    dataset.file_meta.SourceApplicationEntityTitle = "PACS2"


def compressed(dataset: Dataset) -> None:
    dataset.compress(uids.RLELossless, generate_instance_uid=False)


def in_syntax(syntax: uids.UID) -> Change:
    def change(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax

    return change


@pytest.mark.parametrize(
    "change",
    [
        in_other_words,
        compressed,
        in_syntax(uids.ImplicitVRLittleEndian),
        in_syntax(uids.DeflatedExplicitVRLittleEndian),
        set_to(PatientComments="x"),
        lambda dataset: dataset.add_new(0x00080000, "UL", 0),
    ],
)
def test_the_same_image_written_otherwise_is_a_copy(tmp_path: Path, change: Change) -> None:
    slices = series(SCAN, AFFINE)
    again = deepcopy(slices)
    for one in again:
        change(one)
    volume = read_volume(zipped([*slices, *again], tmp_path / "a.zip"))
    np.testing.assert_array_equal(volume.data, SCAN)
    assert volume.header.notes == ("ignored 7 images sent twice",)


@pytest.mark.parametrize("change", [in_other_words, compressed, set_to(InstanceNumber=99)])
def test_a_copy_under_another_identity_is_one_too(tmp_path: Path, change: Change) -> None:
    slices = series(SCAN, AFFINE)
    again = deepcopy(slices)
    for one in again:
        one.SOPInstanceUID = uids.generate_uid()
        change(one)
    path = zipped([*slices, *again], tmp_path / "a.zip")
    np.testing.assert_array_equal(read_volume(path).data, SCAN)
    found = read_series(path)
    assert found.notes == ("ignored 7 images sent twice under different SOP instance UIDs",)
    assert [one.SOPInstanceUID for one in found.datasets] == [one.SOPInstanceUID for one in slices]


@pytest.mark.parametrize("change", [set_to(PixelData=bytes(60)), set_to(RescaleSlope=2), set_to(EchoTime=3)])
def test_another_image_at_the_same_place_is_not_dropped(tmp_path: Path, change: Change) -> None:
    slices = series(SCAN, AFFINE)
    other = deepcopy(slices[2])
    other.SOPInstanceUID = uids.generate_uid()
    change(other)
    with pytest.raises(SlicesAmbiguous, match="1 of 7 places"):
        read_header(zipped([*slices, other], tmp_path / "a.zip"))


@pytest.mark.parametrize(
    "change",
    [
        set_to(PixelData=bytes(60)),
        set_to(ImagePositionPatient=[0, 0, 0]),
        set_to(PixelSpacing=[1, 2]),
        set_to(RescaleSlope=2),
        set_to(PatientID="ANOTHER"),
        set_to(EchoTime=3),
        set_to(Rows=5, Columns=6),
    ],
)
def test_another_image_under_the_same_identity_is_refused(tmp_path: Path, change: Change) -> None:
    slices = series(SCAN, AFFINE)
    other = deepcopy(slices[2])
    change(other)
    with pytest.raises(SlicesInconsistent, match="image 3 was sent 2 times under one identity"):
        read_header(zipped([*slices, other], tmp_path / "a.zip"))


def raw(dataset: Dataset, **values: bytes) -> bytes:
    """The file with the elements' values as they are given, whatever their VR allows."""
    made = deepcopy(dataset)
    made.file_meta.TransferSyntaxUID = uids.ImplicitVRLittleEndian
    for keyword, value in values.items():
        made.add_new(tag_of(keyword), "OB", value + b" " * (len(value) % 2))
    return as_bytes(made)


def tag_of(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return tag


NEEDLESS = (
    *("EchoTime", "TriggerTime", "DiffusionBValue", "AcquisitionNumber", "TemporalPositionIdentifier", "EchoNumbers"),
    *("InstanceNumber", "SliceThickness", "RepetitionTime", "PatientWeight", "PixelPaddingValue", "WindowCenter"),
    *("FlipAngle", "SpacingBetweenSlices", "StudyDate", "SeriesNumber"),
)


@pytest.mark.parametrize("keyword", NEEDLESS)
@pytest.mark.parametrize("value", [b"4,5", b"x", b"1\\2", b"", b"\xff\xfe\xfd", b"1e999"])
def test_a_number_that_nobody_needs_refuses_nothing(tmp_path: Path, keyword: str, value: bytes) -> None:
    files = {str(k): raw(one, **{keyword: value}) for k, one in enumerate(series(SCAN, AFFINE))}
    np.testing.assert_array_equal(read_volume(zipped([], tmp_path / "a.zip", files)).data, SCAN)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [b"JUNK_X 999", b"\xff\xfe\xfd\xfc\xff\xfe\xfd\xfc\xff\xfe", b"4,5 6     "])
def test_an_unknown_character_set_refuses_nothing(tmp_path: Path, name: bytes) -> None:
    files = {
        str(k): as_bytes(one).replace(b"ISO_IR 100", name)
        for k, one in enumerate(series(SCAN, AFFINE, SpecificCharacterSet="ISO_IR 100"))
    }
    np.testing.assert_array_equal(read_volume(zipped([], tmp_path / "a.zip", files)).data, SCAN)


@pytest.mark.parametrize(
    ("keyword", "value", "error", "named"),
    [
        ("PixelSpacing", b"1,0\\1,0", SpacingInvalid, "PixelSpacing is .*1,0.*decimal point.*comma.*give the spacing"),
        ("PixelSpacing", b"1_0\\1_0", SpacingInvalid, "PixelSpacing"),
        ("ImagePositionPatient", b"1,5\\2\\3", GeometryInvalid, "ImagePositionPatient is .*decimal point"),
        ("ImageOrientationPatient", b"1\\0\\0\\0\\x\\0", GeometryInvalid, "ImageOrientationPatient"),
        ("RescaleSlope", b"1,5", NotAVolume, "RescaleSlope is '1,5'; a decimal point"),
        ("RescaleIntercept", b"1\\2", NotAVolume, "not a valid scaling"),
        ("Rows", b"", NotAVolume, "image 1 is damaged: it has no Rows"),
        ("Rows", b"\5\0\6", NotAVolume, "image 1 is damaged: Rows"),
        ("NumberOfFrames", b"x", NotAVolume, "NumberOfFrames"),
    ],
)
def test_geometry_and_pixels_need_their_numbers(
    tmp_path: Path, keyword: str, value: bytes, error: type[Exception], named: str
) -> None:
    files = {str(k): raw(one, **{keyword: value}) for k, one in enumerate(series(SCAN, AFFINE))}
    with pytest.raises(error, match=named):
        read_header(zipped([], tmp_path / "a.zip", files))


def test_a_given_spacing_makes_up_for_an_unreadable_one(tmp_path: Path) -> None:
    files = {str(k): raw(one, PixelSpacing=b"1,0\\1,0") for k, one in enumerate(series(SCAN, AFFINE))}
    path = zipped([], tmp_path / "a.zip", files)
    assert read_header(path, spacing_ras_mm=(1, 2, 3)).spacing_ras_mm == (1, 2, 3)


@pytest.mark.parametrize("uid", [b"1.02.003.4", b"1.2.3.4.56\0\0"])
def test_a_series_is_named_by_a_lenient_uid(tmp_path: Path, uid: bytes) -> None:
    """With leading zeros or padding, whoever writes it: in the header or in the request."""
    files = {str(k): raw(one, SeriesInstanceUID=uid) for k, one in enumerate(series(SCAN, AFFINE))}
    path = zipped(series(SCAN + 1, AFFINE), tmp_path / "a.zip", files)
    for asked in (uid.decode(), uid.decode().strip("\0")):
        assert read_series(path, series_uid=asked).notes == ("ignored 7 images of other series",)


def test_several_values_in_a_uid_harm_no_reading(tmp_path: Path) -> None:
    files = {str(k): raw(one, SOPInstanceUID=b"1.2\\1.%d" % k) for k, one in enumerate(series(SCAN, AFFINE))}
    np.testing.assert_array_equal(read_volume(zipped([], tmp_path / "a.zip", files)).data, SCAN)
