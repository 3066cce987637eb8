"""The U-Net, once, for two and three dimensions (paper section 4.1).

The topology has no opinion on where its weights come from: standalone networks hold them as parameters, the
hypernetwork passes them in through ``torch.func.functional_call``.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from unet_factory.domain.manifest import Architecture, StandaloneManifest, Strides, divisors_of
from unet_factory.domain.spacing import SnappedSpacing


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


def _is_for_onednn(volume: Tensor, weight: Tensor) -> bool:
    return (
        volume.device.type == "cpu"
        and volume.dtype == weight.dtype == torch.float32
        and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
        and torch.backends.mkldnn.is_available()
    )


_CONV: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: OneDnnConv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class ConvBlock(nn.Module):
    """Convolution -> ReLU -> affine instance norm, the paper's order."""

    def __init__(self, dimensions: int, conv: nn.Module, channels: int) -> None:
        super().__init__()
        self.conv = conv
        self.norm = _NORM[dimensions](channels, affine=True)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, channels_in, *space) -> (batch, channels_out, *space')."""
        normalised: Tensor = self.norm(torch.relu(self.conv(features)))
        return normalised


class UpBlock(ConvBlock):
    """The same with a transposed convolution, whose result is cut to the finer level's extents.

    Along an axis of stride 1 the kernel of four makes one voxel more than there is.
    """

    def forward(self, features: Tensor, extents: Sequence[int]) -> Tensor:  # type: ignore[override]
        """(batch, channels_in, *space') -> (batch, channels_out, *extents)."""
        raised = torch.relu(self.conv(features))
        for axis, extent in enumerate(extents, start=2):
            raised = raised.narrow(axis, 0, extent)
        normalised: Tensor = self.norm(raised)
        return normalised


class UNet(nn.Module):
    """Encoder-decoder with skip concatenation; the last layer is a bare convolution to class logits.

    ``strides``: how levels change; every axis halved each time by default. ``divisors``: every extent (r, a, s) of a
    volume must be a multiple of its axis's. ``manifest`` tells what a network loaded from a standalone file is for.
    """

    manifest: StandaloneManifest | None = None

    def __init__(self, architecture: Architecture, strides: Strides | None = None) -> None:
        super().__init__()
        self.architecture = architecture
        self.strides = strides or ((2,) * architecture.dimensions,) * architecture.downs
        self.divisors = divisors_of(self.strides)
        channels, blocks = architecture.channels, architecture.blocks
        self.stem = self._same(architecture.in_channels, channels[0])
        self.encoders = nn.ModuleList(self._stage(width, width, blocks) for width in channels)
        changes = list(zip(pairwise(channels), self.strides, strict=True))
        self.downs = nn.ModuleList(self._down(fine, coarse, stride) for (fine, coarse), stride in changes)
        self.ups = nn.ModuleList(self._up(coarse, fine, stride) for (fine, coarse), stride in changes)
        self.decoders = nn.ModuleList(self._stage(2 * width, width, blocks) for width in channels[:-1])
        self.head = _CONV[architecture.dimensions](channels[0], architecture.classes, kernel_size=3, padding=1)

    def forward(self, volume: Tensor) -> Tensor:
        """Logits for a batch of volumes; a network of two dimensions takes slices (r, a), or volumes slice by slice.

        Args:
            volume: (batch, in_channels, *space), every spatial extent a multiple of ``divisors``.

        Returns:
            (batch, classes, *space).
        """
        if volume.dim() == 2 + self.architecture.dimensions:
            return self._logits(volume)
        batch, depth = volume.shape[0], volume.shape[-1]
        slices = self._logits(volume.movedim(-1, 1).flatten(0, 1))
        stacked: Tensor = slices.unflatten(0, (batch, depth)).movedim(1, -1)
        return stacked

    def _logits(self, volume: Tensor) -> Tensor:
        features = self.encoders[0](self.stem(volume))
        skips = []
        for down, encoder in zip(self.downs, self.encoders[1:], strict=True):
            skips.append(features)
            features = encoder(down(features))
        for level in reversed(range(self.architecture.downs)):
            skip = skips[level]
            features = torch.cat([skip, self.ups[level](features, skip.shape[2:])], dim=1)
            features = self.decoders[level](features)
        logits: Tensor = self.head(features)
        return logits

    def _stage(self, channels_in: int, channels_out: int, blocks: int) -> nn.Sequential:
        widths = [channels_in] + [channels_out] * blocks
        return nn.Sequential(*(self._same(a, b) for a, b in pairwise(widths)))

    def _same(self, channels_in: int, channels_out: int) -> ConvBlock:
        dimensions = self.architecture.dimensions
        conv = _CONV[dimensions](channels_in, channels_out, kernel_size=3, padding=1)
        return ConvBlock(dimensions, conv, channels_out)

    def _down(self, channels_in: int, channels_out: int, stride: tuple[int, ...]) -> ConvBlock:
        dimensions = self.architecture.dimensions
        conv = _CONV[dimensions](channels_in, channels_out, kernel_size=3, stride=stride, padding=1)
        return ConvBlock(dimensions, conv, channels_out)

    def _up(self, channels_in: int, channels_out: int, stride: tuple[int, ...]) -> UpBlock:
        dimensions = self.architecture.dimensions
        conv = _TRANSPOSED[dimensions](channels_in, channels_out, kernel_size=4, stride=stride, padding=1)
        return UpBlock(dimensions, conv, channels_out)


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


def weight_shapes(architecture: Architecture) -> dict[str, torch.Size]:
    """Name -> shape of every weight of the U-Net, in the order of its state dict."""
    return {name: tensor.shape for name, tensor in empty_unet(architecture).state_dict().items()}
