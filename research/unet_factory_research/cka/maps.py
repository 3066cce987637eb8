"""Maps of CKA within a network, across spacings and across hypernetworks, and how fast they change with spacing."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from unet_factory_research.cka.grams import Grams
from unet_factory_research.cka.hsic import cka

Map = npt.NDArray[np.float64]
"""(..., layers, layers)."""


@dataclass(frozen=True)
class Maps:
    """All maps of an analysis; C checkpoints, S spacings, L layers.

    ``within`` (C, S, L, L): a network with itself. ``across`` (C, S, L, L): the network of the reference spacing, in
    rows, with that of each spacing, in columns. ``between`` (pairs of checkpoints, S, L, L): networks of one spacing
    from two hypernetworks.
    """

    within: Map
    across: Map
    between: Map
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Rate:
    """A linear model of every entry of a map against spacing: its ``slope`` per mm, and how much of the entry's
    variance over the spacings the model explains.
    """

    slope: Map
    explained: Map


def maps_of(grams: Sequence[Sequence[Grams]], reference: int) -> Maps:
    """``grams``: per checkpoint and spacing; ``reference``: index of the spacing that the others are compared with."""
    pairs = tuple(combinations(range(len(grams)), 2))
    return Maps(
        within=np.stack([_stack([(g, g) for g in spacings]) for spacings in grams]),
        across=np.stack([_stack([(spacings[reference], g) for g in spacings]) for spacings in grams]),
        between=np.array([_stack(list(zip(grams[a], grams[b], strict=True))) for a, b in pairs]),
        pairs=pairs,
    )


def rate_of_change(maps: Map, spacings_mm: Sequence[float]) -> Rate:
    """Least squares of every entry of ``maps`` (S, L, L) against spacing (paper, Fig. 3 c and g)."""
    spacing = np.asarray(spacings_mm) - np.mean(spacings_mm)
    deviation = maps - maps.mean(axis=0)
    slope = np.tensordot(spacing, deviation, axes=1) / np.square(spacing).sum()
    with np.errstate(invalid="ignore"):  # an entry that does not vary, such as the diagonal, has nothing to explain
        explained = np.square(slope) * np.square(spacing).sum() / np.square(deviation).sum(axis=0)
    return Rate(slope, explained)


def _stack(pairs: Sequence[tuple[Grams, Grams]]) -> Map:
    return np.stack([cka(a, b).numpy() for a, b in pairs])
