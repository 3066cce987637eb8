"""The U-Net of an architecture (paper section 4.1); its topology is that of ``plain_unet``, which users get as a file.

It has no opinion on where its weights come from: standalone networks hold them as parameters, the
hypernetwork passes them in through ``torch.func.functional_call``.
"""

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from unet_factory.domain.manifest import Architecture, StandaloneManifest, Strides
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.plain_unet import PlainUNet


class OneDnnConv3d(nn.Conv3d):
    """As PyTorch's own, but in inference on a CPU by oneDNN for few voxels too.

    PyTorch unfolds a single volume of at most 20 480 channels x voxels along two axes: ten times slower, 27 times the
    memory.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 (PyTorch's name)
        if isinstance(self.padding, str) or not _is_for_onednn(input, weight):
            convolved: Tensor = super()._conv_forward(input, weight, bias)
            return convolved
        return torch.mkldnn_convolution(input, weight, bias, self.padding, self.stride, self.dilation, self.groups)


def convolve_inside(volume: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(batch, channels, r, a, s) convolved as by :class:`OneDnnConv3d`, where the whole kernel lies in the volume."""
    if not _is_for_onednn(volume, weight):
        return functional.conv3d(volume, weight, bias)
    convolved: Tensor = torch.mkldnn_convolution(volume, weight, bias, (0, 0, 0), (1, 1, 1), (1, 1, 1), 1)
    return convolved


def _is_for_onednn(volume: Tensor, weight: Tensor) -> bool:
    return (
        volume.device.type == "cpu"
        and volume.dtype == weight.dtype == torch.float32
        and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
        and torch.backends.mkldnn.is_available()
    )


class ChannelsLastNorm3d(nn.InstanceNorm3d):
    """As PyTorch's own, but in inference in bfloat16 on a CPU it hands a single volume on with its channels last in
    memory.

    oneDNN convolves such volumes as they lie; others it rearranges before and after each convolution, a quarter of the
    time. PyTorch's own norm would undo the order, and takes no volume without copying it.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        """(batch, channels, r, a, s) -> the same."""
        if len(input) > 1 or not _is_bfloat16_inference(input):
            normalised: Tensor = super().forward(input)
            return normalised
        volume = input.contiguous(memory_format=torch.channels_last_3d)
        return torch.batch_norm(volume, self.weight, self.bias, None, None, True, 0.0, self.eps, False)


def _is_bfloat16_inference(volume: Tensor) -> bool:
    return volume.device.type == "cpu" and volume.dtype == torch.bfloat16 and not torch.is_grad_enabled()


class UNet(PlainUNet):
    """The network of an architecture, with the faster convolution and norm.

    ``strides``: how levels change; every axis halved each time by default. ``manifest`` tells what a network loaded
    from a standalone file is for.
    """

    convolutions = {2: nn.Conv2d, 3: OneDnnConv3d}  # noqa: RUF012 (replaced as a whole, never changed)
    norms = {2: nn.InstanceNorm2d, 3: ChannelsLastNorm3d}  # noqa: RUF012
    manifest: StandaloneManifest | None = None

    def __init__(self, architecture: Architecture, strides: Strides | None = None) -> None:
        self.architecture = architecture
        self.strides = strides or ((2,) * architecture.dimensions,) * architecture.downs
        super().__init__(
            dimensions=architecture.dimensions,
            in_channels=architecture.in_channels,
            classes=architecture.classes,
            channels=architecture.channels,
            blocks=architecture.blocks,
            strides=self.strides,
        )


def empty_unet(architecture: Architecture, spacing: SnappedSpacing | None = None) -> UNet:
    """The topology without storage (meta device): for shapes, and to run with weights passed in.

    ``spacing``: what the network is for; it decides the strides where the architecture's pooling follows the spacing.
    """
    with torch.device("meta"):
        return UNet(architecture, None if spacing is None else architecture.strides(spacing))


def unet_of(weights: Mapping[str, Tensor], architecture: Architecture, spacing: SnappedSpacing) -> UNet:
    """The network for ``spacing`` that ``weights`` make, in evaluation mode, on their device; they are not copied.

    Raises:
        RuntimeError: names or shapes do not fit the architecture.
    """
    unet = empty_unet(architecture, spacing).requires_grad_(False).eval()
    unet.load_state_dict(weights, strict=True, assign=True)
    return unet


@lru_cache(maxsize=16)
def weight_shapes(architecture: Architecture) -> Mapping[str, torch.Size]:
    """Name -> shape of every weight of the U-Net, in the order of its state dict."""
    return {name: tensor.shape for name, tensor in empty_unet(architecture).state_dict().items()}
