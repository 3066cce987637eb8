"""Which images of a series to take where it has several at each place."""

from dataclasses import dataclass
from typing import Self

from unet_factory.domain.errors import MalformedRequest
from unet_factory.domain.numbers import parse_number

_SEPARATOR = "\\"
_MAX_VALUES = 16
_MAX_CHARACTERS = 16  # of a code string, PS3.5 section 6.2


@dataclass(frozen=True)
class ImageChoice:
    """Values that Image Type (0008,0008) or the Frame Type of an enhanced image must have, in upper case, and the echo
    time in ms; empty and None leave the choice open."""

    image_type: tuple[str, ...] = ()
    echo_time_ms: float | None = None

    @classmethod
    def parse(cls, image_type: str | None, echo_time_ms: str | None) -> Self:
        """Read ``ORIGINAL\\PRIMARY\\M``, or some of the values such as ``M``, and ``4.6``.

        Raises:
            MalformedRequest: values that cannot be, or an echo time that is not a positive number.
        """
        return cls(() if image_type is None else _values(image_type), _milliseconds(echo_time_ms))


ANY_IMAGE = ImageChoice()


def _values(text: str) -> tuple[str, ...]:
    values = tuple(value.strip().upper() for value in text.split(_SEPARATOR))
    if len(values) > _MAX_VALUES or not all(0 < len(value) <= _MAX_CHARACTERS for value in values):
        raise MalformedRequest(
            f"image_type {text[:100]!r}: expected at most {_MAX_VALUES} values with backslashes between, each of 1 to "
            f"{_MAX_CHARACTERS} characters, such as M or ORIGINAL\\PRIMARY\\M"
        )
    return values


def _milliseconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = parse_number(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise MalformedRequest(f"echo_time_ms {text[:100]!r}: expected a positive number of milliseconds, such as 4.6")
    return value
