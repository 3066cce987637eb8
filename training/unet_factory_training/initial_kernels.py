"""A start at which kernels are functions of mm: the network for a coarse spacing begins as that of the finest one, with
its kernels resampled, instead of with the same numbers on larger voxels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unet_factory.domain.manifest import Architecture, Strides
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.hypernetwork import Hypernetwork, over_range
from unet_factory.model.unet import empty_unet

_LESSONS, _LEARNING_RATE = 300, 2e-2
_RELATIVE_CUTOFF = 1e-2
"""Features that hardly vary, less than this share of the most, are not fitted to: their heads would have to be huge."""


def start_with_resampled_kernels(hypernetwork: Hypernetwork, finest: SnappedSpacing) -> None:
    """Take the bias as the network for ``finest``; teach MLP, heads and bias that the network for each spacing has its
    kernels, resampled, as nearly as the number of features allows.

    At 64 spacings: the MLP learns the principal components of the kernels, then heads and bias are a least-squares fit.
    Along an axis that is finer than ``finest``, kernels stay. Only those of three voxels follow: the transposed ones,
    norms and biases are the same for all spacings at first.
    """
    grid, architecture = hypernetwork.grid, hypernetwork.architecture
    spacings = [grid.snap(spacing_mm.tolist()) for spacing_mm in over_range(grid)]
    levels, sizes = _levels(architecture), [shape.numel() for shape in hypernetwork.weight_shapes.values()]
    rows = [hypernetwork.bias.detach().split(sizes), hypernetwork.heads.detach().split(sizes)]
    kernels = {
        name: _Kernel(bias, heads, bias.view(shape).clone(), _all_ratios(architecture, levels[name], finest, spacings))
        for (name, shape), bias, heads in zip(hypernetwork.weight_shapes.items(), *rows, strict=True)
        if name in levels
    }
    _teach(hypernetwork, torch.stack([_products(kernel.wanted()) for kernel in kernels.values()]).sum(dim=0))
    with torch.no_grad():
        hypernetwork.heads.zero_()
        features = hypernetwork.features_over_range()
        fit = torch.linalg.pinv(torch.column_stack([features, torch.ones(len(features))]), rtol=_RELATIVE_CUTOFF)
        for kernel in kernels.values():
            *of_features, common = fit @ kernel.wanted()
            kernel.heads.copy_(torch.stack(of_features, dim=1))
            kernel.bias.copy_(common)


@dataclass(frozen=True)
class _Kernel:
    """Views of a kernel's rows of the hypernetwork, what it is at the finest spacing, and the ratios at each."""

    bias: Tensor
    heads: Tensor
    finest: Tensor
    ratios: Sequence[Sequence[float]]

    def wanted(self) -> Tensor:
        """(spacings, weights)"""
        return torch.stack([resampled_kernel(self.finest, ratios).flatten() for ratios in self.ratios])


def _products(wanted: Tensor) -> Tensor:
    """(spacings, spacings): of (spacings, weights), each spacing's difference from the mean with each other's."""
    centred = wanted - wanted.mean(dim=0)
    return centred @ centred.T


def _teach(hypernetwork: Hypernetwork, products: Tensor) -> None:
    """Let the MLP learn features from which the principal components of what changes can be read linearly."""
    features = hypernetwork.features_over_range().shape[1]
    variances, components = torch.linalg.eigh(products)
    components = components[:, -features:] * variances[-features:].clamp(min=0).sqrt()
    components = components / components.std()
    reading = nn.Linear(features, components.shape[1])
    mlp = [*hypernetwork.hidden.parameters(), *hypernetwork.basis.parameters()]
    optimiser = torch.optim.Adam([*mlp, *reading.parameters()], _LEARNING_RATE)
    for _ in range(_LESSONS):
        optimiser.zero_grad()
        (reading(hypernetwork.features_over_range()) - components).square().mean().backward()
        optimiser.step()
    hypernetwork.zero_grad()


def resampled_kernel(kernel: Tensor, ratios: Sequence[float]) -> Tensor:
    """The kernel for coarser voxels that does what ``kernel`` does between them, where the image is interpolated
    linearly; its sum stays.

    Args:
        kernel: (out, in, 3, ...), one axis of three voxels for each of ``ratios``.
        ratios: per axis, the kernel's voxel by the coarser one, above 0 and at most 1.
    """
    for axis, ratio in enumerate(ratios, start=2):
        near = kernel.new_tensor([[ratio, 0, 0], [1 - ratio, 1, 1 - ratio], [0, 0, ratio]])
        kernel = torch.tensordot(kernel, near, dims=([axis], [1])).movedim(-1, axis)
    return kernel


def _levels(architecture: Architecture) -> dict[str, int]:
    """The level on whose grid a convolution of three voxels samples, by the name of its weight."""
    unet = empty_unet(architecture)
    stages: list[tuple[nn.Module, int]] = [(unet.stem, 0), (unet.head, 0)]
    for of_levels in (unet.encoders, unet.downs, unet.decoders):
        stages += [(stage, level) for level, stage in enumerate(of_levels)]
    level_of = {module: level for stage, level in stages for module in stage.modules()}
    convolutions = [(name, module) for name, module in unet.named_modules() if isinstance(module, _CONVOLUTIONS)]
    return {f"{name}.weight": level_of[module] for name, module in convolutions}


_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def _voxel_mm(architecture: Architecture, spacing: SnappedSpacing, level: int) -> list[float]:
    """The voxel's edges at a level of the network for ``spacing``, along the axes that its kernels have."""
    voxel_mm = list(spacing.mm[: architecture.dimensions])
    strides: Strides = architecture.strides(spacing)
    for change in strides[:level]:
        voxel_mm = [mm * stride for mm, stride in zip(voxel_mm, change, strict=True)]
    return voxel_mm


def _all_ratios(
    architecture: Architecture, level: int, finest: SnappedSpacing, spacings: Sequence[SnappedSpacing]
) -> list[list[float]]:
    """For each spacing, per axis: the voxel of ``finest`` by its own at a level, at most 1."""
    fine_mm, *others_mm = (_voxel_mm(architecture, spacing, level) for spacing in (finest, *spacings))
    return [[min(1.0, fine / own) for fine, own in zip(fine_mm, own_mm, strict=True)] for own_mm in others_mm]
