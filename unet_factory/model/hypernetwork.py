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

    ``heads`` has shape (weights of the U-Net, last hidden width), ``bias`` (weights of the U-Net,). Under ``MIP`` the
    bias is the learned base weights, so the heads only have to learn what the spacing changes.
    """

    def __init__(self, architecture: Architecture, shape: HypernetworkShape, grid: SpacingGrid) -> None:
        super().__init__()
        self.architecture, self.shape, self.grid = architecture, shape, grid
        self.weight_shapes = weight_shapes(architecture)
        widths = [_ENCODED_WIDTH[shape.parametrization], *shape.hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        count = sum(size.numel() for size in self.weight_shapes.values())
        self.heads = nn.Parameter(torch.empty(count, widths[-1]))
        self.bias = nn.Parameter(torch.empty(count))
        self._initialise()

    def forward(self, spacing_ras_mm: Tensor) -> Weights:
        """Weights for one spacing.

        Args:
            spacing_ras_mm: (3,), mm, order (R, A, S).
        """
        features = self._encode(spacing_ras_mm)
        for layer in self.hidden:
            features = torch.relu(layer(features))
        flat = torch.addmv(self.bias, self.heads, features)
        if self.shape.parametrization is Parametrization.PAPER:
            flat = 5 * flat.tanh()  # keeps generated weights within (-5, 5), paper section 4.1
        return self._split(flat)

    def generate(self, snapped: SnappedSpacing) -> Weights:
        """Weights for a snapped spacing, without gradients, on the hypernetwork's device."""
        with torch.inference_mode():
            weights: Weights = self(torch.tensor(snapped.mm, dtype=torch.float32, device=self.bias.device))
        return weights

    def _encode(self, spacing_ras_mm: Tensor) -> Tensor:
        if self.shape.parametrization is Parametrization.PAPER:
            return spacing_ras_mm
        low, high = (torch.tensor(ends, device=spacing_ras_mm.device) for ends in zip(*self.grid.range_mm, strict=True))
        span = (high / low).log().clamp(min=1e-6)
        angle = (spacing_ras_mm / low).log() / span * (math.pi / 2)
        return torch.cat([angle.cos(), angle.sin()])

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


_ENCODED_WIDTH: Mapping[Parametrization, int] = {Parametrization.PAPER: 3, Parametrization.MIP: 6}
_MIP_HEAD_STD = 1e-3
