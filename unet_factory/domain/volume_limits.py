"""How large a volume an operator accepts."""

from dataclasses import dataclass


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
