"""The hypernetwork: from a voxel spacing, and conditions if a model has any, to all the weights of a U-Net (paper
section 3.1)."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from unet_factory.domain.conditions import Condition, SnappedConditions, snap_conditions
from unet_factory.domain.manifest import Architecture, HypernetworkShape, Parametrization
from unet_factory.domain.spacing import SnappedSpacing, SpacingGrid
from unet_factory.model import weight_kernel
from unet_factory.model.unet import UNet, unet_of, weight_shapes

Weights = dict[str, Tensor]
_Block = tuple[Tensor, Tensor, Tensor]


class Hypernetwork(nn.Module):
    """MLP on the spacing, then one linear head per U-Net tensor; all heads are stored, and multiplied, as one matrix.

    ``heads`` has shape (weights of the U-Net, features), ``bias`` (weights of the U-Net,). Under ``MIP`` the
    bias is the learned base weights, so the heads only have to learn what the spacing changes; ``CONSTANT`` has no
    heads. Where the U-Net's strides follow the spacing, the MLP also sees them unless it is not told: the weights may
    jump where they do.
    """

    def __init__(
        self,
        architecture: Architecture,
        shape: HypernetworkShape,
        grid: SpacingGrid,
        conditions: Sequence[Condition] = (),
    ) -> None:
        super().__init__()
        self.architecture, self.shape, self.grid, self.conditions = architecture, shape, grid, tuple(conditions)
        self.weight_shapes = weight_shapes(architecture)
        follows = architecture.pooling.follows_spacing and shape.parametrization is Parametrization.MIP
        self.sees_strides = follows and shape.told_strides
        self._encoded_range: Tensor | None = None
        widths = [self._encoded_width, *self._hidden_widths]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.basis = nn.Identity() if shape.basis is None else nn.Linear(widths[-1], shape.basis)
        count = sum(size.numel() for size in self.weight_shapes.values())
        self.heads = nn.Parameter(torch.empty(count, shape.basis or widths[-1]))
        self.bias = nn.Parameter(torch.empty(count))
        if not self.bias.is_meta:  # there, drawing numbers that nobody sees would import half of torch's compiler
            self._initialise()

    def forward(self, spacing_ras_mm: Tensor, conditions: SnappedConditions | None = None) -> Weights:
        """Weights for one spacing.

        Args:
            spacing_ras_mm: (3,), mm, order (R, A, S).
            conditions: a value for each of the model's; their defaults if None.
        """
        return self.weights_of(self.features(spacing_ras_mm, conditions))

    def features(self, spacing_ras_mm: Tensor, conditions: SnappedConditions | None = None) -> Tensor:
        """(features,): what the heads are multiplied by for a spacing (3,) in mm.

        Give it a spacing on the CPU to keep a GPU busy: it is encoded where it is, and the host need not wait.
        """
        encoded = self._encode_all(spacing_ras_mm, conditions).to(self.bias.device, non_blocking=True)
        return self._projected(self._hidden_features(encoded))

    def features_over_range(self) -> Tensor:
        """(spacings, features) for the spacings of :func:`over_range` all at once, with the conditions' defaults."""
        return self._projected(self._hidden_features(self._encode_range(self.bias.device)))

    def _projected(self, features: Tensor) -> Tensor:
        """(*, features) of the MLP -> (*, features) for the heads."""
        if self.shape.centred is not None:
            mean, spread = _mean_and_spread(self._hidden_features(self._encode_range(features.device)))
            features = self.shape.centred * (features - mean) / spread
        projected: Tensor = self.basis(features)
        return projected

    def _encode_range(self, device: torch.device) -> Tensor:
        """(spacings, encoded): fixed, so worked out once; made from the grid and no part of a checkpoint."""
        if self._encoded_range is None or self._encoded_range.device != device:
            with torch.inference_mode(False):
                encoded = [self._encode_all(spacing_mm.to(device)) for spacing_mm in over_range(self.grid)]
                self._encoded_range = torch.stack(encoded)
        return self._encoded_range

    def _hidden_features(self, encoded: Tensor) -> Tensor:
        """(*, encoded) -> (*, features)"""
        for layer in self.hidden:
            encoded = torch.relu(layer(encoded))
        return encoded

    def _encode_all(self, spacing_ras_mm: Tensor, conditions: SnappedConditions | None = None) -> Tensor:
        return torch.cat([self._encode(spacing_ras_mm), self._encode_conditions(conditions, spacing_ras_mm.device)])

    def weights_of(self, features: Tensor) -> Weights:
        """Weights for (features,), differentiable."""
        return self.split(self._bounded(torch.addmv(self.bias, self.heads.to(self.bias.dtype), features)))

    def generate(self, snapped: SnappedSpacing, conditions: SnappedConditions | None = None) -> Weights:
        """Weights for a snapped spacing, without gradients, on the hypernetwork's device."""
        with torch.inference_mode():
            flat = torch.empty_like(self.bias)
            self.generate_into(flat, snapped, conditions)
            return self.split(flat)

    @torch.inference_mode()
    def generate_into(self, flat: Tensor, snapped: SnappedSpacing, conditions: SnappedConditions | None = None) -> None:
        """Write the weights of :meth:`generate` into ``flat``, (weights of the U-Net,) of any floating-point type and
        device.

        On a CPU they are made in blocks of rows on as many threads as torch uses; the bytes do not depend on their
        number. Those of the compiled kernel are also the same on every processor; PyTorch's differ in the last bits.
        """
        features = self.features(torch.tensor(snapped.mm, dtype=torch.float32, device=self.bias.device), conditions)
        compiled = weight_kernel.suits(self.heads, self.bias)
        rows = _BLOCK_ROWS if compiled else _ROWS_IN_CACHE if self.bias.is_cpu else len(self.bias)
        blocks = zip(self.bias.split(rows), self.heads.split(rows), flat.split(rows), strict=True)
        if not compiled:
            for bias, heads, target in blocks:
                target.copy_(self._bounded(torch.addmv(bias, heads.to(bias.dtype), features)))
            return

        @torch.inference_mode()
        def make(block: _Block) -> None:
            bias, heads, target = block
            made = target if weight_kernel.is_plain(target) else torch.empty_like(bias)
            weight_kernel.make_weights(heads, bias, features, made, bounded=self._is_bounded)
            if made is not target:
                target.copy_(made)

        _for_each(make, blocks)

    def split(self, flat: Tensor) -> Weights:
        """The U-Net's tensors as views of ``flat``, (weights of the U-Net,), which holds them one after the other."""
        sizes = [size.numel() for size in self.weight_shapes.values()]
        parts = flat.split(sizes)
        return {name: part.view(size) for (name, size), part in zip(self.weight_shapes.items(), parts, strict=True)}

    def unet(self, snapped: SnappedSpacing, conditions: SnappedConditions | None = None) -> UNet:
        """The network for a snapped spacing, ready to segment, with the weights of :meth:`generate`."""
        return unet_of(self.generate(snapped, conditions), self.architecture, snapped)

    @property
    def _encoded_width(self) -> int:
        axes = self.architecture.dimensions
        strides = self.architecture.downs * axes if self.sees_strides else 0
        return _NUMBERS_PER_INPUT[self.shape.parametrization] * (axes + len(self.conditions)) + strides

    @property
    def _hidden_widths(self) -> tuple[int, ...]:
        return () if self.shape.parametrization is Parametrization.CONSTANT else self.shape.hidden

    def _encode(self, spacing_ras_mm: Tensor) -> Tensor:
        """A network of two dimensions depends on the spacing within the slice alone (paper section 3.1, d = 2)."""
        told_mm = spacing_ras_mm[: self.architecture.dimensions]
        if self.shape.parametrization is Parametrization.PAPER:
            return told_mm
        if self.shape.parametrization is Parametrization.CONSTANT:
            return told_mm[:0]
        ends = zip(*self.grid.range_mm[: len(told_mm)], strict=True)
        low, high = (torch.tensor(end, device=told_mm.device) for end in ends)
        span = (high / low).log().clamp(min=1e-6)
        angle = (told_mm / low).log() / span * (math.pi / 2)
        encoded = [angle.cos(), angle.sin()]
        if self.sees_strides:
            encoded.append(self._encode_strides(spacing_ras_mm))
        return torch.cat(encoded)

    def _encode_conditions(self, values: SnappedConditions | None, device: torch.device) -> Tensor:
        """As the spacing, but linear in the value, and under ``PAPER`` from 0 to 1 whatever the unit."""
        if values is None:
            values = snap_conditions(self.conditions, {})
        fractions = torch.tensor(
            [condition.fraction(value) for condition, value in zip(self.conditions, values, strict=True)], device=device
        )
        if self.shape.parametrization is Parametrization.PAPER:
            return fractions
        if self.shape.parametrization is Parametrization.CONSTANT:
            return fractions[:0]
        angle = fractions * (math.pi / 2)
        return torch.cat([angle.cos(), angle.sin()])

    def _encode_strides(self, spacing_ras_mm: Tensor) -> Tensor:
        """(changes of level x axes,): 1 where an axis is halved, else 0."""
        strides = self.architecture.strides(self.grid.snap(spacing_ras_mm.tolist()))
        return (torch.tensor(strides, device=spacing_ras_mm.device, dtype=spacing_ras_mm.dtype) - 1).flatten()

    @property
    def _is_bounded(self) -> bool:
        """``PAPER`` keeps generated weights within (-5, 5) (paper, section 4.1)."""
        return self.shape.parametrization is Parametrization.PAPER

    def _bounded(self, flat: Tensor) -> Tensor:
        return 5 * flat.tanh_() if self._is_bounded else flat

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


def over_range(grid: SpacingGrid) -> Tensor:
    """(64, 3): the same spacings in mm every time, spread evenly over the logarithm of the trained range."""
    low, high = (torch.tensor(ends) for ends in zip(*grid.range_mm, strict=True))
    return low * (high / low) ** SobolEngine(len(low)).draw(_OVER_RANGE)


def _mean_and_spread(features: Tensor) -> tuple[Tensor, Tensor]:
    """Of (spacings, features), each (features,); a feature that never changes keeps a spread above zero."""
    return features.mean(dim=0), features.std(dim=0, correction=0).clamp(min=_LEAST_SPREAD)


def _for_each(make: Callable[[_Block], None], blocks: Iterable[_Block]) -> None:
    """Call ``make``, which releases Python's lock, for every block, on as many threads as torch uses, of which this is
    one.
    """
    waiting = list(blocks)
    others, shared = min(torch.get_num_threads(), len(waiting)) - 1, iter(waiting)

    def work() -> None:
        for block in shared:
            make(block)

    if not others:
        work()
        return
    with ThreadPoolExecutor(others) as pool:
        outcomes = [pool.submit(work) for _ in range(others)]
        work()
    for outcome in outcomes:
        outcome.result()


_BLOCK_ROWS, _ROWS_IN_CACHE = 2**17, 2**15
_OVER_RANGE, _LEAST_SPREAD = 64, 1e-3
_NUMBERS_PER_INPUT: Mapping[Parametrization, int] = {
    Parametrization.PAPER: 1,
    Parametrization.MIP: 2,
    Parametrization.CONSTANT: 0,
}
_MIP_HEAD_STD = 1e-3
