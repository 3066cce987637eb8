"""The sha256 of a file, computed once in a process for as long as the file stays as it is."""

import hashlib
import os
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple, Self

_REMEMBERED = 256
_SETTLED_AFTER_NS = 50_000_000  # file systems keep time in ticks of up to 10 ms, and in one a file may change twice


class FileStamp(NamedTuple):
    """Changes whenever a file is replaced or written to."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def file_digest(path: Path) -> str:
    """Hexadecimal. A checkpoint of the paper's size takes half a second, so the registry and the loader share it.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        stamp = FileStamp.of(os.fstat(file.fileno()))
        settled = time.time_ns() - stamp.changed_ns > _SETTLED_AFTER_NS
        with _lock:
            known = _digests.get(stamp)
        if known is None:
            known = hashlib.file_digest(file, "sha256").hexdigest()
            if settled and FileStamp.of(os.fstat(file.fileno())) == stamp:  # else it may be written to meanwhile
                _remember(stamp, known)
        return known


def _remember(stamp: FileStamp, digest: str) -> None:
    with _lock:
        _digests[stamp] = digest
        while len(_digests) > _REMEMBERED:
            _digests.popitem(last=False)


_digests: OrderedDict[FileStamp, str] = OrderedDict()
_lock = threading.Lock()
