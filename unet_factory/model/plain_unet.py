"""The standalone U-Net of U-Net factory in one file that needs torch and safetensors alone.

A network comes as a safetensors file (``GET /unet``) whose metadata say everything about it. With this file beside it:

    unet = load_plain_unet("unet.safetensors")          # an ordinary torch.nn.Module, float32, in evaluation mode
    logits = unet(volume)                                # (1, 1, r, a, s) -> (1, classes, r, a, s)

The volume is RAS+, z-scored over all its voxels, at the spacing ``unet.manifest["snapped_um"]`` (micrometres); every
extent is a multiple of ``unet.divisors``. ``unet.manifest["labels"]`` names the classes.

From HyperSpace (Joutard, Pietsch, Prevost; MICCAI 2024), section 4.1. Licence: Apache-2.0.
"""

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from os import PathLike
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

_Layers = dict[int, Callable[..., nn.Module]]

_TRANSPOSED: _Layers = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class ConvBlock(nn.Module):
    """Convolution -> ReLU -> affine instance norm, the paper's order."""

    def __init__(self, conv: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, features: Tensor) -> Tensor:
        """(batch, channels_in, *space) -> (batch, channels_out, *space')."""
        normalised: Tensor = self.norm(self.rectified(features))
        return normalised

    def rectified(self, features: Tensor) -> Tensor:
        """The same before the norm."""
        return torch.relu(self.conv(features))


class UpBlock(ConvBlock):
    """The same with a transposed convolution, whose result is cut to the finer level's extents.

    Along an axis of stride 1 the kernel of four makes one voxel more than there is.
    """

    def forward(self, features: Tensor, extents: Sequence[int]) -> Tensor:  # type: ignore[override]
        """(batch, channels_in, *space') -> (batch, channels_out, *extents)."""
        normalised: Tensor = self.norm(self.raised(features, extents))
        return normalised

    def raised(self, features: Tensor, extents: Sequence[int]) -> Tensor:
        """The same before the norm."""
        raised = self.rectified(features)
        for axis, extent in enumerate(extents, start=2):
            raised = raised.narrow(axis, 0, extent)
        return raised


class PlainUNet(nn.Module):
    """Encoder-decoder with skip concatenation; the last layer is a bare convolution to class logits.

    Args:
        channels: a width for each level, finest first; ``blocks`` convolution blocks stand on each level besides those
            that change level.
        strides: at each change of level, finest first, the stride (1 or 2) along each axis.

    ``divisors``: every extent (r, a, s) of a volume must be a multiple of its axis's.
    """

    convolutions: _Layers = {2: nn.Conv2d, 3: nn.Conv3d}  # noqa: RUF012 (replaced as a whole, never changed)
    norms: _Layers = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}  # noqa: RUF012
    block: type[ConvBlock] = ConvBlock
    up_block: type[UpBlock] = UpBlock

    def __init__(
        self,
        *,
        dimensions: int,
        in_channels: int,
        classes: int,
        channels: Sequence[int],
        blocks: int,
        strides: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        self.dimensions = dimensions
        halved = [math.prod(along) for along in zip(*strides, strict=True)]
        r, a, s = halved + [1] * (3 - len(halved))
        self.divisors: tuple[int, int, int] = (r, a, s)
        changes = list(zip(pairwise(channels), strides, strict=True))
        self.stem = self._same(in_channels, channels[0])
        self.encoders = nn.ModuleList(self._stage(width, width, blocks) for width in channels)
        self.downs = nn.ModuleList(self._down(fine, coarse, stride) for (fine, coarse), stride in changes)
        self.ups = nn.ModuleList(self._up(coarse, fine, stride) for (fine, coarse), stride in changes)
        self.decoders = nn.ModuleList(self._stage(2 * width, width, blocks) for width in channels[:-1])
        self.head = self.convolutions[dimensions](channels[0], classes, kernel_size=3, padding=1)

    def forward(self, volume: Tensor) -> Tensor:
        """Logits for a batch of volumes; a network of two dimensions takes slices (r, a), or volumes slice by slice.

        Args:
            volume: (batch, in_channels, *space), every spatial extent a multiple of ``divisors``.

        Returns:
            (batch, classes, *space).
        """
        return self._sliced(self._logits, volume)

    def features(self, volume: Tensor) -> Tensor:
        """(batch, channels[0], *space) that the last layer, ``head``, makes logits of; of volumes as in ``forward``."""
        return self._sliced(self._features, volume)

    def _sliced(self, layers: Callable[[Tensor], Tensor], volume: Tensor) -> Tensor:
        if volume.dim() == 2 + self.dimensions:
            return layers(volume)
        batch, depth = volume.shape[0], volume.shape[-1]
        slices = layers(volume.movedim(-1, 1).flatten(0, 1))
        stacked: Tensor = slices.unflatten(0, (batch, depth)).movedim(1, -1)
        return stacked

    def _logits(self, volume: Tensor) -> Tensor:
        logits: Tensor = self.head(self._features(volume))
        return logits

    def _features(self, volume: Tensor) -> Tensor:
        """Block by block, so that nothing is held which no later block needs."""
        features, skips = volume, list[Tensor]()
        for change, encoder in zip((self.stem, *self.downs), self.encoders, strict=True):
            for block in (change, *encoder.children()):
                features = block(features)
            skips.append(features)
        skips.pop()
        for up, decoder in zip(reversed(self.ups), reversed(self.decoders), strict=True):
            features = up(features, skips[-1].shape[2:])
            features = torch.cat([skips.pop(), features], dim=1)
            for block in decoder.children():
                features = block(features)
        return features

    def _stage(self, channels_in: int, channels_out: int, blocks: int) -> nn.Sequential:
        widths = [channels_in] + [channels_out] * blocks
        return nn.Sequential(*(self._same(a, b) for a, b in pairwise(widths)))

    def _same(self, channels_in: int, channels_out: int) -> ConvBlock:
        conv = self.convolutions[self.dimensions](channels_in, channels_out, kernel_size=3, padding=1)
        return self.block(conv, self._norm(channels_out))

    def _down(self, channels_in: int, channels_out: int, stride: Sequence[int]) -> ConvBlock:
        conv = self.convolutions[self.dimensions](
            channels_in, channels_out, kernel_size=3, stride=tuple(stride), padding=1
        )
        return self.block(conv, self._norm(channels_out))

    def _up(self, channels_in: int, channels_out: int, stride: Sequence[int]) -> UpBlock:
        conv = _TRANSPOSED[self.dimensions](channels_in, channels_out, kernel_size=4, stride=tuple(stride), padding=1)
        return self.up_block(conv, self._norm(channels_out))

    def _norm(self, channels: int) -> nn.Module:
        return self.norms[self.dimensions](channels, affine=True)


class StandaloneUNet(PlainUNet):
    """With the metadata of its file, ``manifest``."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        architecture = manifest["architecture"]
        super().__init__(
            in_channels=architecture["in_channels"],
            classes=architecture["classes"],
            channels=architecture["channels"],
            blocks=architecture["blocks"],
            strides=manifest["strides"],
            dimensions=architecture["dimensions"],
        )
        self.manifest = manifest


def load_plain_unet(path: str | PathLike[str]) -> StandaloneUNet:
    """A standalone network's safetensors file as a float32 module in evaluation mode."""
    with safe_open(path, framework="pt") as file:
        manifest = json.loads(file.metadata()["unet_factory_manifest"])
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a mapping)
    unet = StandaloneUNet(manifest)
    unet.load_state_dict(weights, strict=True)
    return unet.requires_grad_(False).eval()
