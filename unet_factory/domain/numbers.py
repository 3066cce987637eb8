"""Numbers written as text, read strictly.

Python's own ``float`` and ``int`` also take ``1_0`` (as 10) and the digits of other scripts; no format here does.
"""

import re

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)


def parse_number(text: str) -> float:
    """The number that ``text`` writes, spaces around it aside; ``nan`` and ``inf`` are numbers here.

    Raises:
        ValueError: anything else, a decimal comma included.
    """
    stripped = text.strip()
    if _DECIMAL.fullmatch(stripped) is None:
        raise ValueError(f"{text!r} is not a number")
    return float(stripped)


def parse_whole_number(text: str) -> int:
    """The whole number that ``text`` writes, spaces around it aside.

    Raises:
        ValueError: anything else, ``1.0`` included.
    """
    stripped = text.strip()
    if _WHOLE.fullmatch(stripped) is None:
        raise ValueError(f"{text!r} is not a whole number")
    return int(stripped)
