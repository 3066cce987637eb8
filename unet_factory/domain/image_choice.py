"""Which images of a series to take where it has several at each place."""

import math
import re
from dataclasses import dataclass

from unet_factory.domain.errors import MalformedRequest
from unet_factory.domain.numbers import parse_number

_SEPARATORS = re.compile(r"[\\,]")
_MAX_VALUES = 16
_VALUE = re.compile(r"[A-Z0-9_ ]{1,16}", re.ASCII)  # a code string, PS3.5 section 6.2


@dataclass(frozen=True)
class ImageChoice:
    """Values that Image Type (0008,0008) or the Frame Type of an enhanced image must have, in upper case, and the echo
    time in ms; empty and None leave the choice open."""

    image_type: tuple[str, ...] = ()
    echo_time_ms: float | None = None


ANY_IMAGE = ImageChoice()


def parse_image_type(text: str) -> tuple[str, ...]:
    r"""Read ``ORIGINAL\PRIMARY\M``, or some of the values such as ``M``, with backslashes or commas between them.

    Raises:
        MalformedRequest: no values, too many, or characters that no image type has.
    """
    values = tuple(value.strip().upper() for value in _SEPARATORS.split(text))
    if len(values) > _MAX_VALUES or not all(_VALUE.fullmatch(value) for value in values):
        raise MalformedRequest(
            f"image_type must be 1 to {_MAX_VALUES} values of an ImageType, each of 1 to 16 letters, digits, spaces "
            "and underscores, with backslashes or commas between, such as M or ORIGINAL,PRIMARY,M"
        )
    return values


def parse_echo_time(text: str) -> float:
    """Read ``4.6`` as milliseconds.

    Raises:
        MalformedRequest: not a positive number.
    """
    try:
        value = parse_number(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise MalformedRequest("echo_time_ms must be a positive number of milliseconds, such as 4.6")
    return value
