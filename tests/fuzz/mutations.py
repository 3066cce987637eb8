"""Changed bytes: single ones, numbers at their limits, blocks cut, moved and doubled, the end missing."""

from collections.abc import Callable

import numpy as np

_NUMBERS = (
    b"\0\0",
    b"\xff\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\1\0",
    b"\0\1",
)
_WORDS = (b"nan", b"inf", b"-1", b"0", b"1_0", b"1,0", b"1e9", b"\\", b"999999999", b"SQ", b"UN", b"\xfe\xff\x00\xe0")

Random = np.random.Generator


def mutated(content: bytes, random: Random) -> bytes:
    """One to three changes, half of them in the first KiB, where headers are."""
    for _ in range(random.integers(1, 4)):
        if len(content) < 8:
            break
        change = _CHANGES[random.integers(len(_CHANGES))]
        end = min(len(content), 1024) if random.random() < 0.5 else len(content)
        content = change(content, int(random.integers(end)), random)
    return content


def _set_bytes(content: bytes, at: int, random: Random) -> bytes:
    new = random.bytes(int(random.integers(1, 5)))
    return content[:at] + new + content[at + len(new) :]


def _set_number(content: bytes, at: int, random: Random) -> bytes:
    new = _NUMBERS[random.integers(len(_NUMBERS))]
    return content[:at] + new + content[at + len(new) :]


def _set_word(content: bytes, at: int, random: Random) -> bytes:
    new = _WORDS[random.integers(len(_WORDS))]
    return content[:at] + new + content[at + len(new) :]


def _cut(content: bytes, at: int, random: Random) -> bytes:
    return content[:at] + content[at + int(random.integers(1, 64)) :]


def _doubled(content: bytes, at: int, random: Random) -> bytes:
    return content[: at + int(random.integers(1, 64))] + content[at:]


def _truncated(content: bytes, at: int, _: Random) -> bytes:
    return content[:at]


_CHANGES: tuple[Callable[[bytes, int, Random], bytes], ...] = (
    *(_set_bytes, _set_bytes, _set_number, _set_word, _cut, _doubled, _truncated),
)
