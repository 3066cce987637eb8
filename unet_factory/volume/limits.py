"""Checks of a volume file against the limits, from its header, before a voxel is loaded."""

import math

from unet_factory.domain.errors import VolumeTooLarge
from unet_factory.domain.volume_limits import VolumeLimits
from unet_factory.volume.stored import StoredVolume


def check_claims(stored: StoredVolume, limits: VolumeLimits) -> None:
    """Raise VolumeTooLarge where the header claims more than is allowed."""
    shape = " x ".join(map(str, stored.shape))
    check_limit(f"longest axis of the shape {shape}", "voxels", max(stored.shape), limits.max_axis)
    check_limit(f"shape {shape}", "voxels", math.prod(stored.shape), limits.voxels)
    check_limit(
        f"shape {shape} of {stored.dtype.name}",
        "bytes decompressed",
        stored.payload.offset + stored.payload.n_bytes,
        limits.decompressed_bytes,
    )


def check_limit(what: str, unit: str, found: int, allowed: int) -> None:
    """Raise VolumeTooLarge where ``found`` is above ``allowed``."""
    if found > allowed:
        raise VolumeTooLarge(f"{what}: {found} {unit}, at most {allowed} are allowed", found=found, allowed=allowed)
