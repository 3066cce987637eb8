"""The part of a disk that callers' data never takes: the jobs' journal beside it needs room to go on.

New data leaves a floor free. What was accepted before may use half of that, so that it can be finished; the other half
is the journal's. Without a setting the floor is 256 MiB, or a fifth of a disk that is smaller than 1.25 GiB.
"""

import shutil
from pathlib import Path

from unet_factory.domain.errors import StorageFull

_LARGEST_BYTES = 256 * 2**20
_SHARE = 5


class FreeSpace:
    """Of the disk that ``folder`` lies on; ``min_free_bytes`` None: by the size of the disk."""

    def __init__(self, folder: Path, min_free_bytes: int | None) -> None:
        self._folder = folder
        by_size = min(_LARGEST_BYTES, shutil.disk_usage(folder).total // _SHARE)
        self.min_free_bytes = by_size if min_free_bytes is None else min_free_bytes

    def usage(self) -> tuple[int, int]:
        """Bytes that are free, and bytes in all."""
        usage = shutil.disk_usage(self._folder)
        return usage.free, usage.total

    def check(self, wanted_bytes: int, *, accepted: bool = False) -> None:
        """
        Args:
            accepted: they belong to what was accepted before.

        Raises:
            StorageFull: ``wanted_bytes`` more would leave less free than is to stay free.
        """
        floor, (free, _) = self.min_free_bytes // (2 if accepted else 1), self.usage()
        if floor and free - wanted_bytes < floor:
            raise StorageFull(
                f"there is no space for {wanted_bytes} more bytes: {free} are free, {floor} must stay free; delete"
                " segmentations that are not needed any more, or try again later",
                free=free,
                min_free=floor,
            )
