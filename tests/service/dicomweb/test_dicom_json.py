"""DICOM JSON of data sets with values that are not what their representation says, and of other character sets."""

import json
from io import BytesIO
from typing import Any

import pytest
from fastapi import HTTPException, Request
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from unet_factory_service.dicomweb.accept import DICOM, DICOM_JSON, MULTIPART, check_accepts
from unet_factory_service.dicomweb.dicom_json import dicom_json

JUNK = {
    "PatientWeight": (b"70,5", "DS", ["70,5"]),
    "PatientSize": (b"NaN ", "DS", ["NaN"]),
    "SliceThickness": (b"1e999 ", "DS", ["Infinity"]),
    "PixelSpacing": (b"1.0\\x ", "DS", ["1.0", "x"]),
    "SeriesNumber": (b"1.5 ", "IS", ["1.5"]),
    "EchoNumbers": (b"one ", "IS", ["one"]),
    "PatientBirthDate": (b"1970.01.01x ", "DA", ["1970.01.01x"]),
    "StudyTime": (b"25:99 ", "TM", ["25:99"]),
    "FrameOfReferenceUID": (b"not a uid ", "UI", ["not a uid"]),
    "PatientName": (b"\xff\xfe^=\\ ", "PN", None),
    "Rows": (b"\x01", "US", None),
    "RecommendedDisplayFrameRateInFloat": (b"\x00\x00\xc0\x7f", "FL", ["NaN"]),
    "FrameIncrementPointer": (b"\x01\x02", "AT", None),
}


def raw(keyword: str, value: bytes) -> RawDataElement:
    """Of implicit VR, as it comes out of a file."""
    return RawDataElement(Tag(keyword), None, len(value), value, 0, is_implicit_VR=True, is_little_endian=True)


@pytest.mark.parametrize(("keyword", "junk"), JUNK.items(), ids=JUNK)
def test_a_value_that_is_invalid_costs_no_other(keyword: str, junk: tuple[bytes, str, list[Any] | None]) -> None:
    value, vr, said = junk
    inner, dataset = Dataset(), Dataset()
    inner[Tag(keyword)], dataset[Tag(keyword)] = raw(keyword, value), raw(keyword, value)
    dataset.ReferencedStudySequence = [inner]
    dataset.PatientID = "TEST-0"
    found = json.loads(json.dumps(dicom_json(dataset), allow_nan=False))
    assert found["00100020"] == {"vr": "LO", "Value": ["TEST-0"]}
    for entries in (found, found["00081110"]["Value"][0]):
        entry = entries[f"{int(Tag(keyword)):08X}"]
        assert entry["vr"] == vr
        assert said is None or entry["Value"] == said


@pytest.mark.parametrize("character_set", ["GB18030", "ISO_IR 192"])
def test_text_is_unicode_and_says_so(character_set: str) -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.SpecificCharacterSet, dataset.PatientName = character_set, "张^三"
    with BytesIO() as file:
        dataset.save_as(file)
        file.seek(0)
        found = dicom_json(dcmread(file, force=True))
    assert found["00080005"] == {"vr": "CS", "Value": ["ISO_IR 192"]}
    assert found["00100010"]["Value"] == [{"Alphabetic": "张^三"}]


@pytest.mark.parametrize(
    ("accept", "query", "answer"),
    [
        ("", "", MULTIPART),
        ("*/*", "", MULTIPART),
        ('multipart/related; type="application/dicom"', "", MULTIPART),
        ('multipart/related; type="application/dicom"; transfer-syntax=*', "", MULTIPART),
        ("multipart/related;type=application/dicom;transfer-syntax=1.2.840.10008.1.2.1", "", MULTIPART),
        ('multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.50', "", None),
        ('multipart/related; type="image/jpeg"', "", None),
        ('multipart/related; type="image/jpeg", application/dicom', "", DICOM),
        ('multipart/related; type="a,b", application/dicom; q=0.5', "", DICOM),
        ("application/dicom; q=0", "", None),
        ("application/dicom; q=0.5, multipart/related", "", MULTIPART),
        ("application/dicom; q=0.5, multipart/related; q=0.1", "", DICOM),
        ("text/html", "accept=application/dicom", DICOM),
        ("*/*", "accept=text/html", None),
    ],
)
def test_what_is_accepted_is_served_or_refused(accept: str, query: str, answer: str | None) -> None:
    headers = [(b"accept", accept.encode())] if accept else []
    request = Request({"type": "http", "query_string": query.encode(), "headers": headers})
    if answer is None:
        with pytest.raises(HTTPException) as refused:
            check_accepts(request, MULTIPART, DICOM)
        assert refused.value.status_code == 406
    else:
        assert check_accepts(request, MULTIPART, DICOM) == answer


@pytest.mark.parametrize("query", ["accept=application/dicom%2Bjson", "accept=application/dicom+json"])
def test_a_plus_sign_in_a_url_may_be_written_as_it_is(query: str) -> None:
    request = Request({"type": "http", "query_string": query.encode(), "headers": []})
    assert check_accepts(request, DICOM_JSON) == DICOM_JSON
