"""Instances on the disk until the gateway has them: an answer «stored» outlives the process and the machine.

``series/SERIES/INSTANCE.dcm`` waits, ``refused/SERIES/INSTANCE.dcm`` the gateway will never take; names are digests of
UIDs. A series with the file ``open`` in its folder has a sender that is at work, or that was cut off.
"""

import shutil
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from unet_factory.platform.atomic_files import sync

_OPEN = "open"
_ABANDONED_S = 600.0  # a sender at work adds to its file all the time


class SpooledFile(NamedTuple):
    """An instance as it was seen; sent again meanwhile, it is another file."""

    path: Path
    identity: tuple[int, int]

    @property
    def instance_id(self) -> str:
        return self.path.stem


class Spool:
    """Safe to share between threads of one process."""

    def __init__(self, folder: Path) -> None:
        self.incoming, self._series, self._refused = (folder / name for name in ("incoming", "series", "refused"))
        self._lock = threading.Lock()
        for path in (self.incoming, self._series, self._refused):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self.incoming.iterdir():
            leftover.unlink()

    def put(self, series_id: str, instance_id: str, file: Path) -> None:
        """Takes ``file`` out of ``incoming``. When this returns, the whole instance is on the disk, in its place.

        A second instance of the same id replaces the first.

        Raises:
            OSError: it could not be written.
        """
        sync(file)
        with self._lock:
            folder = self._series / series_id
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / _OPEN).touch()
            file.replace(folder / f"{instance_id}.dcm")
            sync(folder)
            sync(self._series)

    def close(self, series_id: str) -> None:
        """The senders of a series have ended in good order."""
        (self._series / series_id / _OPEN).unlink(missing_ok=True)

    def complete(self, quiet_s: float, after_abort_s: float) -> list[str]:
        """The series for which nothing has come for long enough, oldest first."""
        now, found = time.time(), []
        for folder in self._series.iterdir():
            with suppress(FileNotFoundError):  # an instance was forwarded meanwhile
                newest = max((path.stat().st_mtime for path in folder.glob("*.dcm")), default=0.0)
                if now - newest >= (after_abort_s if (folder / _OPEN).exists() else quiet_s):
                    found.append((newest, folder.name))
        return [series_id for _, series_id in sorted(found)]

    def files(self, series_id: str) -> list[SpooledFile]:
        return [SpooledFile(path, _identity(path)) for path in sorted((self._series / series_id).glob("*.dcm"))]

    def remove(self, files: Iterable[SpooledFile]) -> None:
        """What the gateway has; what was sent again meanwhile stays."""
        with self._lock:
            for file in files:
                if file.path.exists() and _identity(file.path) == file.identity:
                    file.path.unlink()

    def refuse(self, files: Iterable[SpooledFile]) -> None:
        """Put aside what the gateway will never take."""
        with self._lock:
            for file in files:
                folder = self._refused / file.path.parent.name
                folder.mkdir(mode=0o700, exist_ok=True)
                with suppress(FileNotFoundError):
                    file.path.replace(folder / file.path.name)

    def tidy(self, keep_refused_s: float) -> None:
        """Folders of series that are through, and refused instances that nobody came for."""
        with self._lock:
            for folder in self._series.iterdir():
                if not any(folder.glob("*.dcm")):
                    shutil.rmtree(folder)
        _remove_older(self.incoming.iterdir(), _ABANDONED_S)
        _remove_older(self._refused.glob("*/*.dcm"), keep_refused_s)
        for folder in self._refused.iterdir():
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _remove_older(files: Iterable[Path], age_s: float) -> None:
    for file in files:
        with suppress(FileNotFoundError):  # it has just become whole
            if time.time() - file.stat().st_mtime > age_s:
                file.unlink()


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns
