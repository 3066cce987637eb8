"""The hypernetwork: from a voxel spacing to all the weights of a U-Net (paper section 3.1)."""

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from unet_factory.manifest import Architecture, HypernetworkShape, Parametrization
from unet_factory.model.unet import UNet, weight_shapes
from unet_factory.spacing import SnappedSpacing, SpacingGrid

Weights = dict[str, Tensor]


class Hypernetwork(nn.Module):
    """MLP on the spacing, then one linear head per U-Net tensor; all heads are stored, and multiplied, as one matrix.

    ``heads`` has shape (weights of the U-Net, features), ``bias`` (weights of the U-Net,). Under ``MIP`` the
    bias is the learned base weights, so the heads only have to learn what the spacing changes; ``CONSTANT`` has no
    heads. Where the U-Net's strides follow the spacing, the MLP also sees them: the weights may jump where they do.
    """

    def __init__(self, architecture: Architecture, shape: HypernetworkShape, grid: SpacingGrid) -> None:
        super().__init__()
        self.architecture, self.shape, self.grid = architecture, shape, grid
        self.weight_shapes = weight_shapes(architecture)
        self.sees_strides = architecture.pooling.follows_spacing and shape.parametrization is Parametrization.MIP
        widths = [self._encoded_width, *self._hidden_widths]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.basis = nn.Identity() if shape.basis is None else nn.Linear(widths[-1], shape.basis)
        count = sum(size.numel() for size in self.weight_shapes.values())
        self.heads = nn.Parameter(torch.empty(count, shape.basis or widths[-1]))
        self.bias = nn.Parameter(torch.empty(count))
        self._initialise()

    def forward(self, spacing_ras_mm: Tensor) -> Weights:
        """Weights for one spacing.

        Args:
            spacing_ras_mm: (3,), mm, order (R, A, S).
        """
        return self.weights_of(self.features(spacing_ras_mm))

    def features(self, spacing_ras_mm: Tensor) -> Tensor:
        """(features,): what the heads are multiplied by for a spacing (3,) in mm."""
        features = self._encode(spacing_ras_mm)
        for layer in self.hidden:
            features = torch.relu(layer(features))
        projected: Tensor = self.basis(features)
        return projected

    def weights_of(self, features: Tensor) -> Weights:
        """Weights for (features,)."""
        flat = torch.addmv(self.bias, self.heads, features)
        if self.shape.parametrization is Parametrization.PAPER:
            flat = 5 * flat.tanh()  # keeps generated weights within (-5, 5), paper section 4.1
        return self._split(flat)

    def generate(self, snapped: SnappedSpacing) -> Weights:
        """Weights for a snapped spacing, without gradients, on the hypernetwork's device."""
        with torch.inference_mode():
            weights: Weights = self(torch.tensor(snapped.mm, dtype=torch.float32, device=self.bias.device))
        return weights

    @property
    def _encoded_width(self) -> int:
        strides = self.architecture.downs * self.architecture.dimensions if self.sees_strides else 0
        return _ENCODED_WIDTH[self.shape.parametrization] + strides

    @property
    def _hidden_widths(self) -> tuple[int, ...]:
        return () if self.shape.parametrization is Parametrization.CONSTANT else self.shape.hidden

    def _encode(self, spacing_ras_mm: Tensor) -> Tensor:
        if self.shape.parametrization is Parametrization.PAPER:
            return spacing_ras_mm
        if self.shape.parametrization is Parametrization.CONSTANT:
            return spacing_ras_mm[:0]
        low, high = (torch.tensor(ends, device=spacing_ras_mm.device) for ends in zip(*self.grid.range_mm, strict=True))
        span = (high / low).log().clamp(min=1e-6)
        angle = (spacing_ras_mm / low).log() / span * (math.pi / 2)
        encoded = [angle.cos(), angle.sin()]
        if self.sees_strides:
            encoded.append(self._encode_strides(spacing_ras_mm))
        return torch.cat(encoded)

    def _encode_strides(self, spacing_ras_mm: Tensor) -> Tensor:
        """(changes of level x axes,): 1 where an axis is halved, else 0."""
        strides = self.architecture.strides(self.grid.snap(spacing_ras_mm.tolist()))
        return (torch.tensor(strides, device=spacing_ras_mm.device, dtype=spacing_ras_mm.dtype) - 1).flatten()

    def _split(self, flat: Tensor) -> Weights:
        sizes = [size.numel() for size in self.weight_shapes.values()]
        parts = flat.split(sizes)
        return {name: part.view(size) for (name, size), part in zip(self.weight_shapes.items(), parts, strict=True)}

    def _initialise(self) -> None:
        """``PAPER``: as PyTorch starts linear layers. ``MIP``: as a U-Net starts, the spacing mattering little."""
        with torch.no_grad():
            if self.shape.parametrization is Parametrization.PAPER:
                bound = 1 / math.sqrt(self.heads.shape[1])
                self.heads.uniform_(-bound, bound)
                self.bias.uniform_(-bound, bound)
            else:
                unet = UNet(self.architecture)
                self.heads.normal_(std=_MIP_HEAD_STD)
                self.bias.copy_(torch.cat([tensor.flatten() for tensor in unet.state_dict().values()]))


_ENCODED_WIDTH: Mapping[Parametrization, int] = {
    Parametrization.PAPER: 3,
    Parametrization.MIP: 6,
    Parametrization.CONSTANT: 0,
}
_MIP_HEAD_STD = 1e-3
