"""How large a volume an operator accepts, and the check against it."""

from dataclasses import dataclass

from unet_factory.domain.errors import VolumeTooLarge


@dataclass(frozen=True)
class VolumeLimits:
    """What a volume file may claim and hold; ``members`` counts the files in an archive.

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


def check_limit(what: str, unit: str, found: int, allowed: int) -> None:
    """Raise VolumeTooLarge where ``found`` is above ``allowed``."""
    if found > allowed:
        raise VolumeTooLarge(f"{what}: {found} {unit}, at most {allowed} are allowed", found=found, allowed=allowed)
