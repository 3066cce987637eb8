"""How a volume is divided into the windows that a network is given, as arithmetic on extents.

Inference cuts a volume by these rules, and a quote counts by them, so the two agree.
"""

import math
from collections.abc import Sequence

WINDOW_OVERLAP = 0.5


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def padded_extents(extents: Sequence[int], divisors: Sequence[int]) -> tuple[int, ...]:
    """Each extent rounded up to a multiple of its axis's divisor.

    Two multiples on the first axis where all would be one: instance norm needs more than one voxel at the bottom.
    """
    padded = [round_up(extent, divisor) for extent, divisor in zip(extents, divisors, strict=True)]
    if padded == list(divisors):
        padded[0] *= 2
    return tuple(padded)


def window_extents(padded: Sequence[int], window: Sequence[int], divisors: Sequence[int]) -> tuple[int, ...]:
    """The windows of a padded volume: at most ``window`` rounded up to the divisors, and never more than the volume."""
    return tuple(
        min(whole, round_up(part, divisor)) for whole, part, divisor in zip(padded, window, divisors, strict=True)
    )


def window_starts(whole: int, part: int, overlap: float = WINDOW_OVERLAP) -> tuple[int, ...]:
    """Where windows of ``part`` voxels start along an axis of ``whole``; neighbours share at least ``overlap``."""
    step = max(1, int(part * (1 - overlap)))
    return (*range(0, whole - part, step), max(0, whole - part))


def count_windows(extents: Sequence[int], window: Sequence[int], overlap: float = WINDOW_OVERLAP) -> int:
    """How many windows cover ``extents``."""
    return math.prod(len(window_starts(whole, part, overlap)) for whole, part in zip(extents, window, strict=True))
