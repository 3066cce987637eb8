"""The DICOM JSON model (PS3.18 annex F) of data sets as they come: a value that is not what its representation says
becomes a text, or is left out, and costs no other.

The text is UTF-8, so (0008,0005) says ISO_IR 192 (PS3.18 section F.2), whatever the data set's own character set was.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag
from pydicom.valuerep import STR_VR

from unet_factory.volume.dicom.objects import BROKEN

Attributes = Mapping[str, Any]
"""By tag (eight hexadecimal digits): ``{"vr": ..., "Value": [...]}``."""

_CHARACTER_SET = 0x00080005
_PADDING = " \0"


def dicom_json(dataset: Dataset) -> dict[str, Any]:
    """All elements of ``dataset`` but group lengths."""
    return attribute("SpecificCharacterSet", "ISO_IR 192") | _elements(dataset)


def attribute(keyword: str, *values: object) -> dict[str, Any]:
    """One attribute by its keyword; without values it is empty."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    entry: dict[str, Any] = {"vr": dictionary_VR(tag)}
    return {f"{tag:08X}": entry | ({"Value": list(values)} if values else {})}


def chosen(attributes: Attributes, keywords: Iterable[str]) -> dict[str, Any]:
    """Those of ``keywords`` that there are."""
    tags = [f"{tag_for_keyword(keyword):08X}" for keyword in keywords]
    return {tag: attributes[tag] for tag in tags if tag in attributes}


def texts(attributes: Attributes, keyword: str) -> list[str]:
    """The values of an attribute as texts; a person's name has its groups (alphabetic, ...) joined by ``=``."""
    entry = attributes.get(f"{tag_for_keyword(keyword):08X}", {})
    return [_text(value) for value in entry.get("Value", ())]


def text(attributes: Attributes, keyword: str) -> str:
    """The first value; empty if there is none."""
    return next(iter(texts(attributes, keyword)), "")


def _elements(dataset: Dataset) -> dict[str, Any]:
    tags = [tag for tag in sorted(dataset.keys()) if tag.element != 0 and tag != _CHARACTER_SET]
    return {f"{int(tag):08X}": _entry(dataset, tag) for tag in tags}


def _entry(dataset: Dataset, tag: BaseTag) -> dict[str, Any]:
    raw = dataset.get_item(tag)
    try:
        element = dataset[tag]
        if element.VR == "SQ":
            return {"vr": "SQ", "Value": [_elements(item) for item in element.value or ()]}
        entry: dict[str, Any] = element.to_json_dict(None, 0)
        if element.VR == "IS" and not _are_integers(raw):
            return _as_text(tag, raw)  # pydicom would cut off what is behind the point
    except BROKEN:
        return _as_text(tag, raw)
    entry["vr"] = entry["vr"][:2]  # "US or SS" where the object does not tell which
    if any(isinstance(value, float) and not math.isfinite(value) for value in entry.get("Value", ())):
        entry["Value"] = [_finite(value) for value in entry["Value"]]
    return entry


def _as_text(tag: BaseTag, element: Any) -> dict[str, Any]:
    """What a value that means nothing says, for the representations that JSON may say as a text (PS3.18 F.2.3)."""
    try:
        vr = str(element.VR or dictionary_VR(tag))[:2]
    except KeyError:
        vr = "UN"
    value = element.value if isinstance(element, RawDataElement) else None
    if vr not in STR_VR or not value:
        return {"vr": vr}
    said = [part.strip(_PADDING) for part in value.decode("ascii", "replace").split("\\")]
    if vr == "PN":
        return {"vr": vr, "Value": [{"Alphabetic": part} if part else None for part in said]}
    return {"vr": vr, "Value": [part or None for part in said]}


def _are_integers(element: Any) -> bool:
    if not isinstance(element, RawDataElement) or not element.value:
        return True
    return all(re.fullmatch(rb"[ \0]*[+-]?[0-9]*[ \0]*", part) for part in element.value.split(b"\\"))


def _finite(value: Any) -> Any:
    """JSON has no numbers for these."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        groups = [str(value.get(group, "")) for group in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value)
