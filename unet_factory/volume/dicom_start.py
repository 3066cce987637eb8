"""How DICOM files and data sets begin: told from their bytes, whatever their names or meta information say.

Files without a preamble or without meta information are common, and so is meta information that states another encoding
than the data set has. Here the first elements decide: of the four encodings, the one in which most of them make sense.
Nothing here needs pydicom.
"""

import struct
from typing import NamedTuple

HEAD_BYTES = 1024
PREAMBLE_BYTES = 128
PREFIX = b"DICM"
APPLE_DOUBLE = b"\x00\x05\x16\x07"  # ``._NAME``, which macOS leaves beside each file (RFC 1740)
DESKTOP_SERVICES = b"\x00\x00\x00\x01Bud1"  # ``.DS_Store``
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_UNDEFINED_LENGTH = 0xFFFFFFFF
_MAX_FIRST_BYTES = 2**20  # of one of the first values; a length read in the wrong byte order is far above
_MAX_FIRST_GROUP = 0x0040
_BARE_GROUPS = (0x0002, 0x0008)
_CERTAIN_ELEMENTS = 2


class Encoding(NamedTuple):
    """How the elements of a data set are written (PS3.5 section 7). Implicit big endian is not standard, but exists."""

    implicit: bool
    little: bool


_ENCODINGS = tuple(Encoding(implicit, little) for little in (True, False) for implicit in (False, True))


def is_dicom(head: bytes) -> bool:
    """Whether a file with these first ``HEAD_BYTES`` is a DICOM object: with a preamble, with meta information alone,
    or a bare data set in any encoding."""
    start = data_set_start(head)
    if start > PREAMBLE_BYTES:
        return True
    encoding = found_encoding(head[start:])
    return encoding is not None and first_group(head[start:], encoding) in _BARE_GROUPS


def is_debris(head: bytes) -> bool:
    """Whether a file is one that a file manager leaves beside the scans."""
    return head.startswith((APPLE_DOUBLE, DESKTOP_SERVICES))


def data_set_start(head: bytes) -> int:
    """Where the first element stands: behind the preamble and its prefix, or behind a prefix alone, or at once."""
    for skipped in (PREAMBLE_BYTES, 0):
        if head[skipped : skipped + len(PREFIX)] == PREFIX:
            return skipped + len(PREFIX)
    return 0


def found_encoding(data_set: bytes) -> Encoding | None:
    """The encoding in which the first elements of ``data_set`` (its first bytes) make sense; None where none does."""
    counts = {encoding: _sound_elements(data_set, encoding) for encoding in _ENCODINGS}
    best = max(_ENCODINGS, key=lambda encoding: counts[encoding])
    return best if counts[best] >= _CERTAIN_ELEMENTS else None


def first_group(data_set: bytes, encoding: Encoding) -> int:
    """The group of the first tag of ``data_set``, which has at least two bytes."""
    (group,) = struct.unpack_from("<H" if encoding.little else ">H", data_set)
    return int(group)


def _sound_elements(data_set: bytes, encoding: Encoding) -> int:
    """How many elements, from the first on, have a tag above the one before and a VR and a length that can be."""
    at, count, last = 0, 0, -1
    while (element := _element(data_set, at, encoding)) is not None:
        tag, length, value_at = element
        if tag <= last or (count == 0 and tag >> 16 > _MAX_FIRST_GROUP):
            return count
        if length == _UNDEFINED_LENGTH:
            return count + 1
        if length > _MAX_FIRST_BYTES:
            return count
        at, last, count = value_at + length, tag, count + 1
    if at >= len(data_set) and count and not encoding.implicit:
        return max(count, _CERTAIN_ELEMENTS)  # one long value, but of a VR that is one
    return count


def _element(data_set: bytes, at: int, encoding: Encoding) -> tuple[int, int, int] | None:
    """(tag, length, where the value begins) of the element at ``at``; None where no element can begin."""
    if at + 12 > len(data_set):
        return None
    order = "<" if encoding.little else ">"
    group, number = struct.unpack_from(f"{order}HH", data_set, at)
    tag = group << 16 | number
    if encoding.implicit:
        (length,) = struct.unpack_from(f"{order}I", data_set, at + 4)
        return tag, length, at + 8
    vr = data_set[at + 4 : at + 6]
    if vr in _LONG_VRS:
        (length,) = struct.unpack_from(f"{order}I", data_set, at + 8)
        return tag, length, at + 12
    if vr in _SHORT_VRS:
        (length,) = struct.unpack_from(f"{order}H", data_set, at + 6)
        return tag, length, at + 8
    return None
