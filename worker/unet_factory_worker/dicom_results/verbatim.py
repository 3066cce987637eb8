"""Data elements exactly as they are in a file: the bytes of a text are copied, never decoded and encoded again.

Decoding cannot be undone where a file names the wrong character set (PS3.5 section 6.1): what it yields then, mostly
U+FFFD, would file a result under another patient.
"""

from collections.abc import Iterable, Iterator
from typing import cast

from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, STR_VR, TEXT_VR_DELIMS

from unet_factory.volume.dicom.objects import BROKEN

_AS_BYTES = {str(vr) for vr in STR_VR} | {"UN", "OB"}
_ESCAPE = b"\x1b"
_PADDED_BY_NUL = {"UI", "UN", "OB"}


def copied(source: Dataset, tag: BaseTag) -> DataElement | RawDataElement | None:
    """The element ``tag`` of ``source``, for a data set in explicit VR little endian.

    Texts have the bytes that they have in the source, valid or not, also inside sequences. None for a sequence that is
    damaged.
    """
    element = source.get_item(tag)
    vr = str(element.VR or _usual_vr(tag))
    if vr == "SQ":
        return _copied_sequence(source, tag)
    if isinstance(element, RawDataElement):
        value = element.value or b""
        if vr in _AS_BYTES:
            return _raw(tag, vr, value)
        try:
            return DataElement(tag, source[tag].VR, source[tag].value)
        except BROKEN:
            return _raw(tag, "UN", value)
    return DataElement(tag, element.VR, element.value)


def written_as_it_is(dataset: Dataset) -> None:
    """Have pydicom write the bytes of copied elements to a file in explicit VR little endian; it decodes them else."""
    dataset.set_original_encoding(False, True, dataset._character_set)


def items_of(dataset: Dataset) -> Iterator[Dataset]:
    """The items of all its sequences, and theirs."""
    for element in dataset._dict.values():
        if element.VR == "SQ" and not isinstance(element, RawDataElement):
            for item in element.value:
                yield item
                yield from items_of(item)


def decodes_exactly(source: Dataset, tags: list[BaseTag]) -> bool:
    """Whether the texts of these elements are what their character set says, so that another set can say them too."""
    chosen = Dataset()
    for tag in tags:
        element = copied(source, tag)
        if element is not None:
            chosen[tag] = element
    return _decodes(chosen, source.get("SpecificCharacterSet"))


def _copied_sequence(source: Dataset, tag: BaseTag) -> DataElement | None:
    try:
        items = list(source[tag].value or ())
    except BROKEN:
        return None
    return DataElement(tag, "SQ", Sequence([_copied_item(item) for item in items]))


def _copied_item(item: Dataset) -> Dataset:
    made = Dataset()
    for tag in item.keys():  # noqa: SIM118 (a data set iterates over decoded elements)
        element = copied(item, tag)
        if element is not None:
            made[tag] = element
    written_as_it_is(made)
    return made


def _raw(tag: BaseTag, vr: str, value: bytes) -> RawDataElement:
    padded = value + (b"\0" if vr in _PADDED_BY_NUL else b" ") * (len(value) % 2)
    return RawDataElement(tag, vr, len(padded), padded, 0, is_implicit_VR=False, is_little_endian=True)


def _usual_vr(tag: BaseTag) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _decodes(dataset: Dataset, character_set: object) -> bool:
    for tag in dataset.keys():  # noqa: SIM118
        element = dataset.get_item(tag)
        if element.VR == "SQ":
            if not all(_decodes(item, item.get("SpecificCharacterSet", character_set)) for item in element.value):
                return False
            continue
        is_text = isinstance(element, RawDataElement) and element.VR in CUSTOMIZABLE_CHARSET_VR
        if is_text and not _is_text_in(element.value or b"", character_set):
            return False
    return True


def _is_text_in(value: bytes, character_set: object) -> bool:
    """Whether all of ``value`` means something in the (perhaps several) sets named; ASCII does in each."""
    if value.isascii() and _ESCAPE not in value:
        return True
    named = [character_set] if isinstance(character_set, str) else list(cast("Iterable[str]", character_set or ()))
    if not any(named) or not all(name in python_encoding for name in named):
        return False
    return "\ufffd" not in decode_bytes(
        value, convert_encodings(named), TEXT_VR_DELIMS | {ord("^"), ord("="), ord("\\")}
    )
