"""Texts of patient and study keep their bytes in the results, whatever their character set says of them."""

import struct
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from tests.fixtures.dicom_results import LABELS, labels_ras, provenance, results, scan_of
from unet_factory.domain.errors import DicomIncomplete
from unet_factory.domain.manifest import Label

NAME, ID, CODES = Tag("PatientName"), Tag("PatientID"), Tag("ProcedureCodeSequence")
LATIN_1, UTF_8 = "Müller^Jürgen ".encode("latin-1"), "Müller^Jürgen".encode()
JAPANESE = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
TEXTS = {
    "UTF-8 is said, Latin-1 is there": ("ISO_IR 192", LATIN_1),
    "Latin-1 is said, UTF-8 is there": ("ISO_IR 100", UTF_8),
    "nothing is said": (None, LATIN_1),
    "no such set": ("ISO_IR 999", LATIN_1),
    "GB18030": ("GB18030", "张^三=张^三".encode("gb18030")),
    "GBK": ("GBK", "张^三".encode("gbk")),
    "Shift JIS": ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ山田".encode("shift_jis")),
    "ISO 2022 JP": ("\\ISO 2022 IR 87", JAPANESE),
    "ISO 2022 KR": ("\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C" + "洪".encode("euc_kr") + b"^"),
    "ISO 2022 without its sets": (None, JAPANESE),
}


def raw(keyword: Any, vr: str, value: bytes) -> RawDataElement:
    value += b" " * (len(value) % 2)
    return RawDataElement(Tag(keyword), vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True)


def scan_with(character_set: str | None, text: bytes) -> list[Dataset]:
    """A scan that has ``text`` as its patient's name and id, and in an item of a sequence."""
    scan = scan_of()
    for one in scan:
        if character_set is not None:
            one[Tag("SpecificCharacterSet")] = raw("SpecificCharacterSet", "CS", character_set.encode())
        one[NAME], one[ID] = raw(NAME, "PN", text), raw(ID, "LO", text)
        item = Dataset()
        item[Tag("CodeMeaning")] = raw("CodeMeaning", "LO", text)
        one.ProcedureCodeSequence = Sequence([item])
        correct_ambiguous_vr(one, is_little_endian=True)
        for dataset in (one, item):
            dataset.set_original_encoding(False, True, dataset._character_set)
    return scan


def element_value(file: Path, keyword: str) -> bytes:
    """As it stands in the file, less the padding."""
    content, tag = file.read_bytes(), Tag(keyword)
    at = content.find(struct.pack("<HH", tag.group, tag.element), 132)
    if at < 0:
        return b""
    (length,) = struct.unpack_from("<H", content, at + 6)
    return content[at + 8 : at + 8 + length].rstrip(b" ")


@pytest.mark.filterwarnings("ignore:Unknown encoding")
@pytest.mark.parametrize(("character_set", "text"), TEXTS.values(), ids=TEXTS)
def test_bytes_of_texts_are_copied(tmp_path: Path, character_set: str | None, text: bytes) -> None:
    files = results(tmp_path, scan_with(character_set, text), labels_ras())
    for file in files.values():
        for keyword in ("PatientName", "PatientID"):
            assert element_value(file, keyword) == text.rstrip(b" ")
        assert element_value(file, "SpecificCharacterSet") == (character_set or "").encode()
        (item,) = dcmread(file)[CODES].value
        assert item.get_item(Tag("CodeMeaning")).value.rstrip(b" ") == text.rstrip(b" ")


def test_bytes_that_their_character_set_does_not_explain_are_worth_more_than_our_words(tmp_path: Path) -> None:
    labels = (LABELS[0], Label(value=1, name="海馬"))
    files = results(
        tmp_path,
        scan_with(*TEXTS["UTF-8 is said, Latin-1 is there"]),
        labels_ras(values=1),
        "binary",
        provenance(labels=labels),
    )
    for file in files.values():
        assert element_value(file, "PatientName") == LATIN_1.rstrip(b" ")


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SOPInstanceUID"])
def test_a_uid_with_several_values_is_refused_by_name(tmp_path: Path, keyword: str) -> None:
    scan = scan_of()
    for number, one in enumerate(scan):
        one[Tag(keyword)] = raw(keyword, "UI", b"1.2\\1.%d" % (10 + number if keyword == "SOPInstanceUID" else 10))
    with pytest.raises(DicomIncomplete, match=keyword):
        results(tmp_path, scan, labels_ras())
