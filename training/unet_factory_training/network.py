"""Hypernetwork and U-Net as one module, which is what an engine of parallel training wants to wrap."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unet_factory.domain.conditions import SnappedConditions
from unet_factory.domain.manifest import Strides
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.hypernetwork import Hypernetwork, Weights
from unet_factory.model.unet import UNet, empty_unet
from unet_factory_training.config import Execution
from unet_factory_training.overlap import OverlappedConvolutions


class SpacingConditionedUNet(nn.Module):
    """U_{H(r)} (paper, equation 1): its parameters are the hypernetwork's alone.

    How the U-Net is run changes no result: see :class:`OptimisationConfig`.
    """

    def __init__(self, hypernetwork: Hypernetwork, execution: Execution = "eager") -> None:
        super().__init__()
        self.hypernetwork, self.execution = hypernetwork, execution
        self._overlapped = OverlappedConvolutions() if execution == "overlapped" else None
        self._unets: dict[Strides, UNet] = {}

    def forward(self, images: Tensor, spacing: SnappedSpacing, conditions: SnappedConditions | None = None) -> Tensor:
        """Logits (batch, classes, r, a, s) of ``images`` (batch, channels, r, a, s), all of one spacing and, where the
        hypernetwork is told any, the same conditions.
        """
        device, unet = images.device, self._unet(spacing)
        with torch.autocast(device.type, enabled=False):
            weights = self.hypernetwork(torch.tensor(spacing.mm), conditions)
        low_precision = torch.is_autocast_enabled(device.type) and not (device.type == "cpu" and _is_thin(images, unet))
        if not low_precision:
            images = images.float()  # the engine hands them over in its own precision
        with torch.autocast(device.type, torch.get_autocast_dtype(device.type), enabled=low_precision):
            return self._run(unet, weights, images)

    def _run(self, unet: UNet, weights: Weights, images: Tensor) -> Tensor:
        if self._overlapped is None or images.device.type != "cpu" or torch.get_num_threads() > 1:
            logits: Tensor = functional_call(unet, weights, (images,), strict=True)
        else:
            weights = self._overlapped.joined(weights)
            with self._overlapped:
                logits = functional_call(unet, weights, (images,), strict=True)
        return logits

    def _unet(self, spacing: SnappedSpacing) -> UNet:
        architecture = self.hypernetwork.architecture
        strides = architecture.strides(spacing)
        if strides not in self._unets:
            unet = empty_unet(architecture, spacing)
            if self.execution == "compiled":
                unet.compile(dynamic=True)
            self._unets[strides] = unet
        return self._unets[strides]


def _is_thin(images: Tensor, unet: UNet) -> bool:
    """Whether the coarsest level has but two voxels along its first axis, or one along another.

    There oneDNN's bfloat16 kernels for CPUs leave parts of the weights' gradients unwritten (seen with torch 2.13.0 on
    AVX-512: up to 1e37 where 1 is right); float32 is right, and hardly slower on so few voxels.
    """
    first, *others = (extent // divisor for extent, divisor in zip(images.shape[2:], unet.divisors, strict=True))
    return first <= 2 or min(others) <= 1
