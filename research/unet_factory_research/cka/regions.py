"""Regions of a map that the paper reads (section 4.3, masks of Fig. 3 d): branches, skip connections, levels."""

import numpy as np
import numpy.typing as npt

from unet_factory_research.cka.layers import Layers

Mask = npt.NDArray[np.bool_]

SKIP_CONNECTED, ENCODER, DECODER, OTHER = "skip-connected", "within the encoder", "within the decoder", "other"


def regions_of(layers: Layers) -> dict[str, Mask]:
    """Name -> (layers, layers); together they cover all but the diagonal.

    ``skip-connected``: one layer of the encoder and one of the decoder, of the same size in space.
    """
    decoder = np.arange(len(layers.names)) >= layers.first_of_decoder
    crosses = decoder[:, None] != decoder[None, :]
    itself = np.eye(len(decoder), dtype=bool)
    return {
        SKIP_CONNECTED: crosses & layers.same_size,
        ENCODER: ~decoder[:, None] & ~decoder[None, :] & ~itself,
        DECODER: decoder[:, None] & decoder[None, :] & ~itself,
        OTHER: crosses & ~layers.same_size,
    }


def levels_of(layers: Layers) -> npt.NDArray[np.int64]:
    """(layers,): 0 for layers of the input's size, 1 for the next smaller ones, and so on."""
    sizes = np.array(layers.ratios).prod(axis=1)
    level: npt.NDArray[np.int64] = np.unique(sizes, return_inverse=True)[1]
    return level
