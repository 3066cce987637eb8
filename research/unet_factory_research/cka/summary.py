"""The numbers that the maps come down to, as JSON."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from unet_factory_research.cka.layers import Layers
from unet_factory_research.cka.maps import Map, Maps, rate_of_change
from unet_factory_research.cka.regions import levels_of, regions_of

_LEAST_ALIKE = 3


def summarise(maps: Maps, layers: Layers, spacings_mm: Sequence[float], names: Sequence[str]) -> dict[str, Any]:
    """Per checkpoint ``within`` and ``across``, per pair of checkpoints ``between``; lists follow the spacings.

    ``within_differs``: how far the maps within the networks of two checkpoints are apart, mean over entries. Rates
    are per mm. A layer that answers alike to all samples has no CKA; ``silent_layers`` counts such.
    """
    return {
        "within": {name: _within(own, layers, spacings_mm) for name, own in zip(names, maps.within, strict=True)},
        "across": {name: _across(own, layers, spacings_mm) for name, own in zip(names, maps.across, strict=True)},
        "between": {
            f"{names[a]} and {names[b]}": {
                **_correspondence(own, layers),
                "within_differs": _numbers(np.nanmean(np.abs(maps.within[a] - maps.within[b]), axis=(1, 2))),
            }
            for (a, b), own in zip(maps.pairs, maps.between, strict=True)
        },
        "silent_layers": int(np.isnan(np.diagonal(maps.within, axis1=-2, axis2=-1)).sum()),
    }


def _within(maps: Map, layers: Layers, spacings_mm: Sequence[float]) -> dict[str, Any]:
    """``spread``: standard deviation of an entry over the spacings, mean over entries."""
    rate = rate_of_change(maps, spacings_mm)
    distances = layers.distances
    beside = ~np.eye(len(distances), dtype=bool)
    return {
        "mean": _numbers(_means(maps, beside)),
        "spread": _number(float(np.nanmean(maps.std(axis=0)[beside]))),
        "by_region": _by_region(maps, rate.slope, layers),
        "by_distance": {
            str(distance): _numbers(_means(maps, distances == distance))
            for distance in range(1, int(distances.max()) + 1)
        },
    }


def _across(maps: Map, layers: Layers, spacings_mm: Sequence[float]) -> dict[str, Any]:
    """``least_alike``: layers least like themselves at the coarsest spacing."""
    rate = rate_of_change(maps, spacings_mm)
    diagonal = np.diagonal(maps, axis1=-2, axis2=-1)
    order, rates_along = np.argsort(diagonal[-1]), np.diagonal(rate.slope)
    return {
        **_correspondence(maps, layers),
        "rate_by_level": {level: rates[0] for level, rates in _by_level(rates_along[None], layers).items()},
        "encoder_levels": _neighbouring_levels(maps, layers),
        "least_alike": [layers.names[index] for index in order[:_LEAST_ALIKE]],
    }


def _correspondence(maps: Map, layers: Layers) -> dict[str, Any]:
    """How alike equal layers of two networks are, and the share of those in rows that no layer is more like."""
    diagonal = np.diagonal(maps, axis1=-2, axis2=-1)
    matched = np.nan_to_num(maps, nan=-1).argmax(axis=-1) == np.arange(len(layers.names))
    return {
        "same_layer": _numbers(np.nanmean(diagonal, axis=-1)),
        "same_layer_by_level": _by_level(diagonal, layers),
        "matched": _numbers(matched.mean(axis=-1)),
    }


def _neighbouring_levels(maps: Map, layers: Layers) -> dict[str, list[float | None]]:
    """``level of the reference,level of the other``: mean over the layers of the two levels, in the encoder."""
    levels = levels_of(layers)[: layers.first_of_decoder]
    encoder = maps[:, : len(levels), : len(levels)]
    pairs = [pair for low, high in pairwise(range(levels.max() + 1)) for pair in ((low, high), (high, low))]
    return {
        f"{row},{column}": _numbers(_means(encoder, np.outer(levels == row, levels == column))) for row, column in pairs
    }


def _by_region(maps: Map, slope: Map, layers: Layers) -> dict[str, Mapping[str, Any]]:
    return {
        name: {"mean": _numbers(_means(maps, mask)), "rate": _number(float(np.nanmean(slope[mask])))}
        for name, mask in regions_of(layers).items()
        if mask.any()
    }


def _by_level(diagonals: npt.NDArray[np.float64], layers: Layers) -> dict[str, list[float | None]]:
    levels = levels_of(layers)
    return {
        str(level): _numbers(np.nanmean(diagonals[:, levels == level], axis=-1)) for level in range(levels.max() + 1)
    }


def _means(maps: Map, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    means: npt.NDArray[np.float64] = np.nanmean(maps[:, mask], axis=-1)
    return means


def _numbers(values: npt.NDArray[np.float64]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None
