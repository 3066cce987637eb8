"""How a volume is divided into the windows that a network is given, as arithmetic on extents.

Inference cuts a volume by these rules, and a quote counts by them, so the two agree.
"""

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


def count_windows(extents: Sequence[int], window: Sequence[int]) -> int:
    """How many windows cover ``extents``, following the blending library's own layout."""
    count = 1
    for whole, part in zip(extents, window, strict=True):
        step = max(1, int(part * (1 - WINDOW_OVERLAP))) if part < whole else part
        count *= 1 if part >= whole else -(-(whole - part) // step) + 1
    return count
