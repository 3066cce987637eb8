"""The U-Net of an architecture (paper section 4.1); its topology is that of ``plain_unet``, which users get as a file.

It has no opinion on where its weights come from: standalone networks hold them as parameters, the
hypernetwork passes them in through ``torch.func.functional_call``.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from unet_factory.domain.manifest import Architecture, StandaloneManifest, Strides
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.plain_unet import ConvBlock, PlainUNet, UpBlock


class OneDnnConv3d(nn.Conv3d):
    """As PyTorch's own, but in inference on a CPU by oneDNN for few voxels too.

    PyTorch unfolds a single volume of at most 20 480 channels x voxels along two axes: ten times slower, 27 times the
    memory. In bfloat16 few channels, such as the classes, are made as a third of the work: see
    :func:`_convolved_plane_by_plane`.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 (PyTorch's name)
        if _are_few_channels(input, weight) and bias is not None and self.padding == (1, 1, 1):
            return _convolved_plane_by_plane(input, weight, bias)
        if isinstance(self.padding, str) or _onednn_type(input, weight) != torch.float32:
            convolved: Tensor = super()._conv_forward(input, weight, bias)
            return convolved
        return torch.mkldnn_convolution(input, weight, bias, self.padding, self.stride, self.dilation, self.groups)


def _are_few_channels(volume: Tensor, weight: Tensor) -> bool:
    """In inference in bfloat16 of a single volume, by a kernel of three voxels along each axis."""
    return (
        _onednn_type(volume, weight) == torch.bfloat16
        and len(volume) == 1
        and 3 * len(weight) <= _LEAST_CHANNELS
        and weight.shape[2:] == (3, 3, 3)
    )


_LEAST_CHANNELS = 16  # oneDNN computes at least so many


def _convolved_plane_by_plane(volume: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(1, channels_in, r, a, s) -> (1, channels_out, r, a, s), of stride one and padded by one.

    The three planes of the kernel along r make channels of their own, which are then added, shifted by one voxel: up to
    five channels cost as much as one.
    """
    none = torch.zeros_like(bias)
    planes: Tensor = functional.conv3d(
        volume, weight.movedim(2, 0).flatten(0, 1)[:, :, None], torch.cat([none, bias, none]), padding=(0, 1, 1)
    )
    before, here, behind = planes[0].unflatten(0, (3, -1)).contiguous().float()
    here[:, 1:] += before[:, :-1]
    here[:, :-1] += behind[:, 1:]
    added: Tensor = here[None].to(planes.dtype)
    return added


def convolve_inside(volume: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(batch, channels, r, a, s) convolved as by :class:`OneDnnConv3d`, where the whole kernel lies in the volume."""
    if _onednn_type(volume, weight) != torch.float32:
        return functional.conv3d(volume, weight, bias)
    convolved: Tensor = torch.mkldnn_convolution(volume, weight, bias, (0, 0, 0), (1, 1, 1), (1, 1, 1), 1)
    return convolved


def _onednn_type(volume: Tensor, weight: Tensor) -> torch.dtype | None:
    """What oneDNN should compute in here: in inference on a CPU, where it can; else None."""
    if volume.device.type != "cpu" or torch.is_grad_enabled() or not torch.backends.mkldnn.is_available():
        return None
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32 if volume.dtype == weight.dtype == torch.float32 else None
    wanted = torch.get_autocast_dtype("cpu")
    supported = wanted == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return wanted if supported else None


class FusedBlock(ConvBlock):
    """As the plain one, but in inference on a CPU oneDNN applies the ReLU to what it has just convolved.

    In bfloat16 a single volume is laid out with its channels last in memory. oneDNN convolves such volumes as they lie;
    others it rearranges before and after each convolution, a quarter of the time.
    """

    def rectified(self, features: Tensor) -> Tensor:
        """(batch, channels_in, *space) -> (batch, channels_out, *space'), before the norm."""
        conv, given = self.conv, _given(features, self.conv)
        if given is None:
            return super().rectified(features)
        assert isinstance(conv, nn.Conv3d)
        how = conv.padding, conv.stride, conv.dilation, conv.groups
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(*given, *how, *_RELU)
        return fused


class FusedUpBlock(UpBlock):
    """The same with a transposed convolution, which does not make what would be cut off."""

    def raised(self, features: Tensor, extents: Sequence[int]) -> Tensor:
        """(batch, channels_in, *space') -> (batch, channels_out, *extents), before the norm."""
        conv, given = self.conv, _given(features, self.conv)
        if given is None:
            return super().raised(features, extents)
        assert isinstance(conv, nn.ConvTranspose3d)
        assert not isinstance(conv.padding, str)
        shapes = zip(extents, features.shape[2:], conv.stride, conv.kernel_size, conv.padding, strict=True)
        further = [wanted - (extent - 1) * stride - kernel + 2 * pad for wanted, extent, stride, kernel, pad in shapes]
        how = conv.padding, further, conv.stride, conv.dilation, conv.groups
        fused: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(*given, *how, *_RELU)
        return fused


_RELU: tuple[object, ...] = ("relu", [], "")  # its name, and no parameters


def _given(features: Tensor, conv: nn.Module) -> tuple[Tensor, Tensor, Tensor] | None:
    """Features, weights and bias as oneDNN takes them, where it is to compute."""
    if not isinstance(conv, nn.Conv3d | nn.ConvTranspose3d):
        return None
    dtype = _onednn_type(features, conv.weight)
    if dtype is None:
        return None
    assert conv.bias is not None
    single = dtype == torch.bfloat16 and len(features) == 1
    layout = torch.channels_last_3d if single else torch.preserve_format
    return features.to(dtype, memory_format=layout), conv.weight.to(dtype), conv.bias.to(dtype)


class InPlaceNorm3d(nn.InstanceNorm3d):
    """As PyTorch's own, but in inference on a CPU the result takes the place of a single volume in memory.

    In bfloat16 the volume keeps its channels last in memory, as :class:`FusedBlock` wants it; PyTorch's own would undo
    the order, and takes no volume without copying it.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        """(1, channels, r, a, s) -> the same; batches are left as they are."""
        if not _can_be_replaced(input, self.weight):
            normalised: Tensor = super().forward(input)
            return normalised
        if input.dtype == torch.float32:
            return self._replace(input.contiguous(), self.weight, self.bias)
        volume = input.contiguous(memory_format=torch.channels_last_3d)
        channels = volume.shape[1]
        side_by_side = math.gcd(volume[0, 0].numel(), _AT_ONCE // channels)
        if channels >= _ENOUGH or side_by_side == 1:
            return self._replace(volume, self.weight, self.bias)
        self._replace_lines(volume.movedim(1, -1).view(-1, side_by_side * channels), side_by_side)
        return volume

    def _replace_lines(self, lines: Tensor, voxels: int) -> None:
        """(lines, voxels * channels): several voxels side by side, as if they were further channels.

        PyTorch's loops over bfloat16 are slow where the channels do not fill the processor's vectors.
        """
        none = torch.zeros(2, lines.shape[1])
        means, variances = (each.view(voxels, -1) for each in torch.batch_norm_update_stats(lines, none[0], none[1], 0))
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        self._replace(lines, *(each.repeat(voxels) for each in (self.weight, self.bias, mean, variance)))

    def _replace(
        self, volume: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None = None, variance: Tensor | None = None
    ) -> Tensor:
        """Without ``mean`` and ``variance``, by those of ``volume``."""
        out = volume, weight.new_empty(0), weight.new_empty(0)
        torch.native_batch_norm(volume, weight, bias, mean, variance, mean is None, 0, self.eps, out=out)
        return volume


_ENOUGH, _AT_ONCE = 32, 64  # channels with which such loops are fast, and fastest


def _can_be_replaced(volume: Tensor, weight: Tensor) -> bool:
    """A single volume on a CPU in inference; PyTorch has no norm of bfloat16 by weights in bfloat16."""
    return (
        len(volume) == 1
        and volume.device.type == "cpu"
        and not torch.is_grad_enabled()
        and volume.dtype in {torch.float32, torch.bfloat16}
        and weight.dtype == torch.float32
    )


class UNet(PlainUNet):
    """The network of an architecture, with faster convolutions and norms.

    ``strides``: how levels change; every axis halved each time by default. ``manifest`` tells what a network loaded
    from a standalone file is for.
    """

    convolutions = {2: nn.Conv2d, 3: OneDnnConv3d}  # noqa: RUF012 (replaced as a whole, never changed)
    norms = {2: nn.InstanceNorm2d, 3: InPlaceNorm3d}  # noqa: RUF012
    block: type[ConvBlock] = FusedBlock
    up_block: type[UpBlock] = FusedUpBlock
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


class LayerByLayerUNet(UNet):
    """The same network, in float32 to the bit, by one operation for each layer, whose result is a new tensor: to look
    at them all, and to compare with.
    """

    block, up_block, norms = PlainUNet.block, PlainUNet.up_block, PlainUNet.norms


def empty_unet(architecture: Architecture, spacing: SnappedSpacing | None = None, kind: type[UNet] = UNet) -> UNet:
    """The topology without storage (meta device): for shapes, and to run with weights passed in.

    ``spacing``: what the network is for; it decides the strides where the architecture's pooling follows the spacing.
    """
    with torch.device("meta"):
        return kind(architecture, None if spacing is None else architecture.strides(spacing))


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
