"""Random, label-preserving changes of a scan; all randomness comes from the generator passed in (a CPU's, so that
equal seeds give equal batches whatever the device)."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional

from unet_factory_training.config import AugmentationConfig
from unet_factory_training.nnunet_intensity import nnunet_intensity


def random_positions_mm(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    centre_mm: Tensor,
    config: AugmentationConfig,
    generator: Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Where each voxel of a patch looks in the scan, after a random affine and elastic deformation about its centre.

    Args:
        shape: extents (r, a, s) of the patch.
        spacing_mm: its spacing.
        centre_mm: (3,), the patch's centre relative to the scan's centre.

    Returns:
        (r, a, s, 3) positions in mm relative to the scan's centre, axes (R, A, S).
    """
    axes = [(torch.arange(n, device=device) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    positions = positions + _elastic_mm(shape, spacing_mm, config, generator, device)
    moved = positions @ _random_affine(config, generator).T.to(device)
    return moved + (centre_mm + _symmetric(config.translation_mm, generator, 3)).to(device)


def vary_intensity(image: Tensor, inside: Tensor, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Gamma, bias field, noise and blur on a z-scored patch, or what nnU-Net does.

    Args:
        image: (r, a, s).
        inside: (r, a, s) bool, where the patch lies in the scan.
    """
    if config.intensity == "nnunet":
        return nnunet_intensity(image, generator)
    image = _gamma(image, inside, config, generator)
    image = image * (1 + _smooth_field(image.shape, config.bias_field * _unit(generator), generator).to(image.device))
    image = image * (1 + float(_symmetric(config.contrast, generator))) + float(_symmetric(config.contrast, generator))
    if _unit(generator) < config.blur_probability:
        image = _blur(image, 0.3 + 0.5 * _unit(generator))
    noise = torch.randn(image.shape, generator=generator).to(image.device)
    return image + config.noise * _unit(generator) * noise


def _random_affine(config: AugmentationConfig, generator: Generator) -> Tensor:
    angles = _symmetric(1.0, generator, 3) * torch.tensor(config.rotation_deg).deg2rad()
    logarithms = _symmetric(config.scale, generator) + _symmetric(config.scale / 3, generator, 3)
    affine = torch.diag(torch.exp(logarithms * _happens(config.scale_probability, generator)))
    for axis in config.flip_axes:
        if _unit(generator) < 0.5:
            affine[:, axis] *= -1
    for axis, angle in enumerate(angles * _happens(config.rotation_probability, generator)):
        affine = _rotation(axis, angle) @ affine
    return affine


def _rotation(axis: int, angle_rad: Tensor) -> Tensor:
    first, second = [other for other in range(3) if other != axis]
    rotation = torch.eye(3)
    rotation[first, first] = rotation[second, second] = angle_rad.cos()
    rotation[first, second], rotation[second, first] = -angle_rad.sin(), angle_rad.sin()
    return rotation


def _elastic_mm(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    config: AugmentationConfig,
    generator: Generator,
    device: torch.device | str,
) -> Tensor:
    """(r, a, s, 3) displacement in mm: random at knots ``elastic_knot_mm`` apart, linear between them."""
    extent_mm = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    knots = [max(2, round(extent / config.elastic_knot_mm) + 1) for extent in extent_mm]
    strength = config.elastic_mm * _unit(generator)
    coarse = strength * torch.randn(1, 3, *knots, generator=generator).to(device)
    field = functional.interpolate(coarse, size=tuple(shape), mode="trilinear", align_corners=True)
    return field[0].movedim(0, -1)


def _smooth_field(shape: Sequence[int], strength: float, generator: Generator) -> Tensor:
    coarse = strength * torch.randn(1, 1, 3, 3, 3, generator=generator)
    return functional.interpolate(coarse, size=tuple(shape), mode="trilinear", align_corners=True)[0, 0]


def _gamma(image: Tensor, inside: Tensor, config: AugmentationConfig, generator: Generator) -> Tensor:
    exponent = math.exp(config.gamma * (2 * _unit(generator) - 1))
    low, high = image[inside].min(), image[inside].max()
    span = (high - low).clamp(min=1e-6)
    return ((image - low).clamp(min=0) / span) ** exponent * span + low


def _blur(image: Tensor, sigma_voxels: float) -> Tensor:
    taps = torch.exp(-0.5 * (torch.arange(-2, 3) / sigma_voxels) ** 2)
    taps = (taps / taps.sum()).to(image.device)
    blurred = image[None, None]
    for axis in (axis for axis, extent in enumerate(image.shape) if extent > 1):
        view = [1, 1, 1, 1, 1]
        view[2 + axis] = 5
        padding = [0, 0, 0]
        padding[axis] = 2
        blurred = functional.conv3d(blurred, taps.view(view), padding=padding)
    return blurred[0, 0]


def _happens(probability: float, generator: Generator) -> bool:
    """What always happens uses up no random number."""
    return probability >= 1 or _unit(generator) < probability


def _unit(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))


def _symmetric(bound: float, generator: Generator, count: int | None = None) -> Tensor:
    return bound * (2 * torch.rand((count,) if count else (), generator=generator) - 1)
