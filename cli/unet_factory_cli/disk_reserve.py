"""Room on the disk set aside for the job server: without it nothing can be deleted once others have filled the disk."""

import os
import shutil
from pathlib import Path

_LARGEST_BYTES = 16 * 2**20
_SHARE = 20  # of the disk: at most a twentieth
_PLENTY = 3  # times its size must be free before the room is set aside (again)


class DiskReserve:
    """A file in ``folder`` of at most 16 MiB that holds nothing, and goes when the space is needed."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "reserve"
        self.size_bytes = min(_LARGEST_BYTES, shutil.disk_usage(folder).total // _SHARE)

    def hold(self) -> None:
        """Set the room aside while there is plenty."""
        if self._file.exists() or self._free() < _PLENTY * self.size_bytes or self.size_bytes == 0:
            return
        try:
            with self._file.open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, self.size_bytes)
        except OSError:  # somebody else was faster to take the room
            self._file.unlink(missing_ok=True)

    def release_if_full(self) -> None:
        """Give the room to whoever is about to write, if there is less than that besides."""
        if self._free() < self.size_bytes:
            self._file.unlink(missing_ok=True)

    def _free(self) -> int:
        return shutil.disk_usage(self._file.parent).free
