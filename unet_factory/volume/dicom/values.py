"""Values of a header, read strictly and one at a time: what is unreadable matters only to who needs it.

pydicom converts values when they are asked for, and raises whatever conversion raises; ``1_0`` it takes for 10.
"""

import re
from functools import cache

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

from unet_factory.domain.errors import NotAVolume
from unet_factory.domain.numbers import parse_number
from unet_factory.volume.dicom.objects import BROKEN
from unet_factory.volume.text_header import shown

_PADDING = " \0"
_BINARY_VRS = ("US", "SS", "UL", "SL", "FD", "FL", "UV", "SV")
_DECIMAL_COMMA = re.compile(r"\d,\d", re.ASCII)

_Element = DataElement | RawDataElement


class UnreadableNumbersError(ValueError):
    """An element that should hold numbers holds something else; the message says what, and no word of a patient's."""


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of an element as text, without padding; () where it is missing, empty or of no text."""
    return _texts_of(_element(dataset, keyword))


def _texts_of(element: _Element | None) -> tuple[str, ...]:
    value = None if element is None else element.value
    if isinstance(value, bytes):
        value = value.decode("latin-1").split("\\")
    if value is None or isinstance(value, str):
        value = [value or ""]
    if not isinstance(value, list | MultiValue | tuple):
        value = [value]
    stripped = tuple(str(one).strip(_PADDING) for one in value)
    return stripped if any(stripped) else ()


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The values of an element as numbers, which may be NaN or infinite; () where it is missing or empty.

    Raises:
        UnreadableNumbersError: anything else.
    """
    element = _element(dataset, keyword)
    if element is None:
        return ()
    stated = element.VR if element.VR not in (None, "UN") else dictionary_VR(element.tag)
    if isinstance(element, RawDataElement) and _may_be_binary(str(stated)):
        return _converted(dataset, keyword)
    values = _texts_of(element)
    try:
        return tuple(parse_number(value) for value in values)
    except ValueError:
        text = "\\".join(values)
        comma = "; a decimal point is needed, not a comma" if _DECIMAL_COMMA.search(text) else ""
        raise UnreadableNumbersError(f"{keyword} is {shown(text)}{comma}") from None


def number_or_none(dataset: Dataset, keyword: str) -> float | None:
    """The only value of an element that nobody needs; None for anything but one number."""
    try:
        values = numbers(dataset, keyword)
    except UnreadableNumbersError:
        return None
    return values[0] if len(values) == 1 else None


def whole_or_none(dataset: Dataset, keyword: str) -> int | None:
    number = number_or_none(dataset, keyword)
    return int(number) if number is not None and number == number // 1 else None


def whole(dataset: Dataset, keyword: str, name: str, default: int | None = None) -> int:
    """The only value of an element that describes the pixels of the image called ``name``.

    Raises:
        NotAVolume: no whole number, or none at all and no ``default``.
    """
    try:
        values = numbers(dataset, keyword)
    except UnreadableNumbersError as error:
        raise NotAVolume(f"{name} is damaged: {error}, not a whole number") from None
    if not values and default is not None:
        return default
    if len(values) != 1 or values[0] != values[0] // 1:
        said = f"{keyword} has {len(values)} values" if len(values) > 1 else f"it has no {keyword}"
        raise NotAVolume(f"{name} is damaged: {said if len(values) != 1 else f'{keyword} is {values[0]:g}'}")
    return int(values[0])


def _element(dataset: Dataset, keyword: str) -> _Element | None:
    return dataset.get_item(_tag(keyword))


@cache
def _may_be_binary(vr: str) -> bool:
    """Whether it is one of integers or floats, or an ambiguous one (``US or SS``)."""
    return any(binary in vr for binary in _BINARY_VRS)


@cache
def _tag(keyword: str) -> BaseTag:
    """pydicom searches its dictionary for a keyword each time that it is given one."""
    return Tag(keyword)


def _converted(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    try:
        value = dataset.get(keyword)
        many = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
        return tuple(float(one) for one in many if one is not None and one != "")
    except BROKEN:
        raise UnreadableNumbersError(f"{keyword} is not made of whole numbers of bytes") from None
