"""What the price of a job depends on, counted from the scan's header and the model's manifest alone."""

import math
from collections.abc import Sequence
from itertools import pairwise

from unet_factory.domain.frozen import Frozen
from unet_factory.domain.manifest import Architecture, Manifest, Strides, divisors_of
from unet_factory.domain.spacing import SpacingPlan, resampled_shape
from unet_factory.domain.windows import count_windows, padded_extents, window_extents

_KERNEL, _TRANSPOSED_KERNEL = 3, 4  # extents of the U-Net's convolutions


class Workload(Frozen):
    """Counts for one scan at one working spacing.

    ``windows`` counts how often a network runs: with mirroring, or as an ensemble, several times for each window.
    ``input_voxels`` are the scan's own, ``working_voxels`` those at the working spacing with padding, ``window_voxels``
    and ``window_multiplications`` those of one window. ``activations``: values in all levels of the network for one
    window, the largest part of its memory. ``made``: the network is not ready, and has to be made first.
    """

    input_voxels: int
    working_voxels: int
    windows: int
    window_voxels: int
    window_multiplications: float
    activations: float
    classes: int
    resampled: bool
    dicom: bool = False
    made: bool = True


def workload_of(
    manifest: Manifest,
    shape_ras: Sequence[int],
    plan: SpacingPlan,
    *,
    dicom: bool = False,
    mirroring: bool = False,
    window: Sequence[int] | None = None,
) -> Workload:
    """The work of segmenting ``shape_ras`` voxels as planned, ``mirroring`` them where it is asked for.

    Args:
        window: the largest one, in voxels; the manifest's by default.

    Raises:
        MalformedRequest: the model cannot be mirrored.
    """
    architecture = manifest.architecture
    strides = architecture.strides(plan.snapped)
    divisors = divisors_of(strides)
    padded = padded_extents(resampled_shape(shape_ras, plan.native_mm, plan.working_mm), divisors)
    piece = window_extents(padded, window or manifest.window_at(plan.snapped), divisors)
    voxels = math.prod(piece)
    runs = len(manifest.hypernetworks) * 2 ** len(manifest.axes_to_mirror(wanted=mirroring))
    return Workload(
        input_voxels=math.prod(shape_ras),
        working_voxels=math.prod(padded),
        windows=count_windows(padded, piece, manifest.window_overlap) * runs,
        window_voxels=voxels,
        window_multiplications=voxels * multiplications_per_voxel(architecture, strides),
        activations=voxels * activations_per_voxel(architecture, strides),
        classes=architecture.classes,
        resampled=plan.resampled,
        dicom=dicom,
    )


def multiplications_per_voxel(architecture: Architecture, strides: Strides) -> float:
    """Multiplications of all convolutions (paper section 4.1), per voxel of the network's input."""
    kernel, transposed = _KERNEL**architecture.dimensions, _TRANSPOSED_KERNEL**architecture.dimensions
    channels, blocks, shares = architecture.channels, architecture.blocks, _shares(strides)
    total: float = kernel * channels[0] * (architecture.in_channels + architecture.classes)
    for width, share in zip(channels, shares, strict=True):
        total += kernel * share * blocks * width**2
    for (fine, coarse), (fine_share, coarse_share) in zip(pairwise(channels), pairwise(shares), strict=True):
        down, up = kernel * coarse_share * fine * coarse, transposed * coarse_share * coarse * fine
        decoder = kernel * fine_share * (2 * fine * fine + (blocks - 1) * fine**2)
        total += down + up + decoder
    return total


def activations_per_voxel(architecture: Architecture, strides: Strides) -> float:
    """Channels of every level together, each counted by how many voxels its level has per voxel of the input."""
    return sum(width * share for width, share in zip(architecture.channels, _shares(strides), strict=True))


def _shares(strides: Strides) -> list[float]:
    """Per level, finest first: its voxels per voxel of the input."""
    shares: list[float] = [1.0]
    for stride in strides:
        shares.append(shares[-1] / math.prod(stride))
    return shares
