"""From checkpoints and scans to the centred Gram matrices of every layer, the only thing that maps are made of."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import Checkpoint
from unet_factory.model.unet import LayerByLayerUNet, empty_unet
from unet_factory_research.cka.crops import Crop, aligned, field_of
from unet_factory_research.cka.hsic import Estimator, centred_gram
from unet_factory_research.cka.layers import LayerWatch, ratio_of

_LOG = logging.getLogger(__name__)

Grams = list[Tensor]
"""Per batch (layers, samples, samples), centred."""


def grams_of(
    checkpoint: Checkpoint, spacing: SnappedSpacing, batches: Sequence[Sequence[Crop]], estimator: Estimator
) -> Grams:
    """The network for ``spacing`` on all batches of crops at that spacing. A sample is a crop; its features are all
    that a layer makes of it (paper section 3.2).
    """
    network = _Network(checkpoint, spacing)
    with torch.inference_mode():
        grams = [_gram_of_batch(network, batch, estimator) for batch in batches]
    _LOG.info("%s at %s mm", checkpoint.manifest.name, spacing)
    return grams


def _gram_of_batch(network: "_Network", batch: Sequence[Crop], estimator: Estimator) -> Tensor:
    """(layers, samples, samples). A layer's features are dropped as soon as its matrix is there."""
    samples = [network.features(crop) for crop in batch]
    layers = len(samples[0])
    return torch.stack(
        [centred_gram(torch.stack([sample.pop(0) for sample in samples]), estimator).cpu() for _ in range(layers)]
    )


class _Network:
    """A generated U-Net that tells what its layers make of a crop."""

    def __init__(self, checkpoint: Checkpoint, spacing: SnappedSpacing) -> None:
        self._spacing = spacing
        self._unet = empty_unet(checkpoint.manifest.architecture, spacing, LayerByLayerUNet).eval()
        self._weights = checkpoint.hypernetwork.generate(spacing)
        self._device = checkpoint.hypernetwork.bias.device

    def features(self, crop: Crop) -> list[Tensor]:
        """Per layer (features,)."""
        field = field_of(crop, self._spacing, self._unet.divisors)
        extents = field.image.shape[2:]
        kept: list[Tensor] = []

        def keep(name: str | None, _: Any, result: Tensor) -> None:
            if name is not None:
                kept.append(aligned(result[0], ratio_of(extents, result.shape[2:]), field, crop).flatten())

        with LayerWatch(self._weights, keep):
            functional_call(self._unet, self._weights, (field.image.to(self._device),), strict=True)
        return kept
