"""What a volume file may claim and hold."""

import math
from dataclasses import dataclass

from unet_factory.domain.errors import VolumeTooLarge
from unet_factory.volume.stored import StoredVolume


@dataclass(frozen=True)
class VolumeLimits:
    """Checked from the header, before a voxel is loaded; ``members`` counts the files in an archive.

    The header of one DICOM object, that is all before its pixel data, is read in at most ``header_reads`` pieces (about
    two for an element) and holds at most ``header_items`` items of sequences; real ones of 4096 frames have half of it.
    """

    compressed_bytes: int = 2 * 2**30
    decompressed_bytes: int = 8 * 2**30
    voxels: int = 1024**3
    max_axis: int = 4096
    members: int = 20_000
    header_bytes: int = 32 * 2**20
    header_items: int = 200_000
    header_reads: int = 2_000_000


DEFAULT_LIMITS = VolumeLimits()


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
