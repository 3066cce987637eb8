"""Hypernetwork and U-Net as one module, which is what an engine of parallel training wants to wrap."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unet_factory.conditions import SnappedConditions
from unet_factory.manifest import Strides
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.unet import UNet, empty_unet
from unet_factory.spacing import SnappedSpacing


class SpacingConditionedUNet(nn.Module):
    """U_{H(r)} (paper, equation 1): its parameters are the hypernetwork's alone.

    ``compiled``: the U-Net runs through ``torch.compile``, once for all spacings of equal strides.
    """

    def __init__(self, hypernetwork: Hypernetwork, *, compiled: bool = False) -> None:
        super().__init__()
        self.hypernetwork, self.compiled = hypernetwork, compiled
        self._unets: dict[Strides, UNet] = {}

    def forward(self, images: Tensor, spacing: SnappedSpacing, conditions: SnappedConditions | None = None) -> Tensor:
        """Logits (batch, classes, r, a, s) of ``images`` (batch, channels, r, a, s), all of one spacing and, where the
        hypernetwork is told any, the same conditions.
        """
        with torch.autocast(images.device.type, enabled=False):
            weights = self.hypernetwork(torch.tensor(spacing.mm, device=images.device), conditions)
        logits: Tensor = functional_call(self._unet(spacing), weights, (images,), strict=True)
        return logits

    def _unet(self, spacing: SnappedSpacing) -> UNet:
        architecture = self.hypernetwork.architecture
        strides = architecture.strides(spacing)
        if strides not in self._unets:
            unet = empty_unet(architecture, spacing)
            if self.compiled:
                unet.compile(dynamic=True)
            self._unets[strides] = unet
        return self._unets[strides]
