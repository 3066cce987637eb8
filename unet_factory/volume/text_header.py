"""Text headers of MHA and NRRD: ``key separator value`` lines in front of the voxels.

They are read here and not by SimpleITK, for which they are no safe input: release 2.5 ends the process (SIGSEGV) on
``NDims = 10000`` or on an unterminated ``space units``, takes NaN for 0 and a missing spacing for 1, and returns an MHA
volume of wrong voxels from damaged compressed data. The tests hold both readers to SimpleITK's answer on sound files.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from unet_factory.domain.errors import NotAVolume
from unet_factory.domain.numbers import parse_number, parse_whole_number
from unet_factory.volume.payload import first_bytes

MAX_HEADER_BYTES = 2**20
MAX_AXES = 16  # as in NRRD
_SHOWN_CHARACTERS = 60
_QUOTABLE = re.compile(
    r"([-+0-9.,;:()\\\s]|\d[eE]|nan|inf|none|true|false|local|list|bzip2|bz2|hex|ascii|te?xt|block|[mcun]?m|inches|pixel"
    r"|met_(none|ascii_char|char|string|(u?char|u?short|u?int|u?long|u?long_long|float|double)(_array)?|float_matrix|other)"
    r"|domain|space|time|point|vector|covariant|normal|stub|scalar|complex|color|rgba?|hsv|xyz|quaternion|matrix|sym|masked"
    r"|(un)?signed|char|short|int|long|float|double|u?int(8|16|32|64)_t|little|big|scanner|right|left|handed)*",
    re.IGNORECASE,
)

Fields = dict[str, str]


def read_text_header(path: Path, end: re.Pattern[bytes]) -> tuple[list[str], int]:
    """The lines up to and including ``end``, and the offset of the byte after it.

    Raises:
        NotAVolume: ``end`` does not occur in the first MiB, or NULs do before it: readers differ on where a text ends.
    """
    head = first_bytes(path, MAX_HEADER_BYTES)
    match = end.search(head)
    if match is None:
        raise NotAVolume(f"truncated: the text header does not end within the first {len(head)} bytes")
    if b"\0" in head[: match.end()]:
        raise NotAVolume("damaged: there are NUL bytes in the text header")
    return head[: match.end()].decode("latin-1").splitlines(), match.end()


def unique_fields(pairs: Iterable[tuple[str, str]]) -> Fields:
    """The pairs as a dict. Raises NotAVolume where a key occurs twice: readers would differ on which one counts."""
    fields: Fields = {}
    for key, value in pairs:
        if key in fields:
            raise NotAVolume(f"the header states {shown(key)} twice")
        fields[key] = value.strip()
    return fields


def required(fields: Fields, key: str) -> str:
    if key not in fields:
        raise NotAVolume(f"the header has no {key}")
    return fields[key]


def axis_lengths(fields: Fields, key: str, count_key: str) -> list[int]:
    """The length of every axis, as many as ``count_key`` says."""
    (count,) = _whole_numbers(fields, count_key)[:1] or [0]
    lengths = _whole_numbers(fields, key)
    if not 1 <= count <= MAX_AXES or len(lengths) != count:
        raise NotAVolume(
            f"{count_key} is {shown(fields[count_key])} and {key} has {len(lengths)} numbers; these must be equal, "
            f"and at most {MAX_AXES}"
        )
    return lengths


def numbers(key: str, text: str, count: int) -> list[float]:
    """``count`` numbers, which may be ``nan`` or ``inf``."""
    try:
        values = [parse_number(word) for word in re.split(r"[\s,]+", text.strip())]
    except ValueError:
        values = []
    if len(values) != count:
        raise NotAVolume(f"{key} is {shown(text)}, not {count} numbers")
    return values


def one_of(key: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise NotAVolume(f"{key} is {shown(value)}; readable are {', '.join(allowed)}")
    return value


def _whole_numbers(fields: Fields, key: str) -> list[int]:
    try:
        return [parse_whole_number(word) for word in required(fields, key).split()]
    except ValueError:
        raise NotAVolume(f"{key} is {shown(fields[key])}, not whole numbers") from None


def shown(text: str) -> str:
    """A header's value as a message may quote it: numbers and words of the formats; other words may be a patient's."""
    if _QUOTABLE.fullmatch(text):
        return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")
    return f"a text of {len(text)} characters"
