"""Hypernetwork and U-Net as one module, which is what an engine of parallel training wants to wrap."""

from collections.abc import Mapping, Sequence
from typing import Any

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

COMPILATION: Mapping[str, Mapping[str, Any]] = {
    "cpu": {"dynamic": True},
    "cuda": {"dynamic": True, "mode": "reduce-overhead"},
}
"""How ``torch.compile`` is called on each kind of device: once for all extents. On a GPU, forward and backward pass are
then replayed as CUDA graphs, of which each extent of a batch gets its own, so the host launches two graphs for a step
instead of 1600 kernels; norm, ReLU and what else lies between convolutions is fused."""


class SpacingConditionedUNet(nn.Module):
    """U_{H(r)} (paper, equation 1): its parameters are the hypernetwork's and, where deep supervision wants them, those
    of ``outputs``, 1x1x1 convolutions to the logits of the decoder's levels from the second finest on.

    ``outputs`` are the same for all spacings and end with the run. nnU-Net gives the coarsest level of the decoder a
    loss of weight zero; here it has no output. How the U-Net is run changes no result: see
    :class:`OptimisationConfig`.
    """

    def __init__(
        self, hypernetwork: Hypernetwork, execution: Execution = "eager", *, deep_supervision: bool = False
    ) -> None:
        super().__init__()
        self.hypernetwork, self.execution = hypernetwork, execution
        architecture = hypernetwork.architecture
        widths = architecture.channels[1:-2] if deep_supervision else ()
        self.outputs = nn.ModuleList(nn.Conv3d(width, architecture.classes, kernel_size=1) for width in widths)
        self._overlapped = OverlappedConvolutions() if execution == "overlapped" else None
        self._unets: dict[Strides, UNet] = {}
        self._decoded: list[Tensor] = []

    def forward(
        self, images: Tensor, spacing: SnappedSpacing, conditions: SnappedConditions | None = None
    ) -> tuple[Tensor, ...]:
        """Logits of ``images`` (batch, channels, r, a, s), all of one spacing and, where the hypernetwork is told any,
        the same conditions.

        Returns:
            (batch, classes, r, a, s), then for each of ``outputs`` (batch, classes, *extents of its level).
        """
        device, unet = images.device, self._unet(spacing)
        with torch.autocast(device.type, enabled=False):
            weights = self.hypernetwork(torch.tensor(spacing.mm), conditions)
        low_precision = torch.is_autocast_enabled(device.type) and not (device.type == "cpu" and _is_thin(images, unet))
        if not low_precision:
            images = images.float()  # the engine hands them over in its own precision
        if self.execution == "compiled":
            torch.compiler.cudagraph_mark_step_begin()  # what the step before left in the graphs' memory may go
        self._decoded.clear()
        with torch.autocast(device.type, torch.get_autocast_dtype(device.type), enabled=low_precision):
            logits = self._run(unet, weights, _laid_out(images))
            coarser = [_as_volume(features, images) for features in reversed(self._decoded)]
            return (logits, *(output(features) for output, features in zip(self.outputs, coarser, strict=True)))

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
            for level in range(1, len(self.outputs) + 1):
                *_, last = unet.decoders[level].children()
                last.register_forward_hook(lambda _, __, features: self._decoded.append(features))
            if self.execution == "compiled":
                unet.compile(**COMPILATION[self.hypernetwork.bias.device.type])
            self._unets[strides] = unet
        return self._unets[strides]


def labels_by_level(labels: Tensor, strides: Strides, levels: int) -> list[Tensor]:
    """``labels`` (batch, 1, r, a, s) at the finest ``levels`` levels of a network: a coarse voxel has the label of the
    fine one in its middle, where the convolution that halves an axis looks.
    """
    dimensions = labels.dim() - 2
    steps = [1] * dimensions
    by_level = [labels]
    for change in strides[: levels - 1]:
        along_axes = (*change, *[1] * (dimensions - len(change)))  # a network of slices halves no axis but theirs
        steps = [step * stride for step, stride in zip(steps, along_axes, strict=True)]
        places = tuple(slice(None, None, step) for step in (1, 1, *steps))
        by_level.append(labels[places])
    return by_level


def level_weights(levels: int) -> Sequence[float]:
    """How much the loss at each level counts, finest first: half as much as at the level before; together 1."""
    weights = [0.5**level for level in range(levels)]
    return [weight / sum(weights) for weight in weights]


def _laid_out(images: Tensor) -> Tensor:
    """On a GPU with the channels last, which is how its tensor cores want volumes; on a CPU that would be slower."""
    if images.device.type == "cpu":
        return images
    return images.contiguous(memory_format=torch.channels_last_3d)


def _as_volume(features: Tensor, images: Tensor) -> Tensor:
    """(batch, channels, *space): a network of slices has (batch x slices, channels, r, a)."""
    if features.dim() == images.dim():
        return features
    volume: Tensor = features.unflatten(0, (images.shape[0], images.shape[-1])).movedim(1, -1)
    return volume


def _is_thin(images: Tensor, unet: UNet) -> bool:
    """Whether the coarsest level has but two voxels along its first axis, or one along another.

    There oneDNN's bfloat16 kernels for CPUs leave parts of the weights' gradients unwritten (seen with torch 2.13.0 on
    AVX-512: up to 1e37 where 1 is right); float32 is right, and hardly slower on so few voxels.
    """
    first, *others = (extent // divisor for extent, divisor in zip(images.shape[2:], unet.divisors, strict=True))
    return first <= 2 or min(others) <= 1
