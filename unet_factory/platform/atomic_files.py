"""Files that appear whole or not at all, and stay through a crash of the machine once they are there."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unet_factory.domain.errors import StorageFull

PARTIAL_SUFFIX = ".partial"
FULL_DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})  # what some network file systems answer


@contextmanager
def whole_file(path: Path, partial: Path | None = None, *, durable: bool = True) -> Iterator[Path]:
    """A path to write to, whose file takes the place of ``path`` when the block succeeds and is removed when it fails.

    Args:
        partial: the path to write to, on the same file system. By default a hidden file beside ``path`` with a random
            name, so that several processes may write the same file at a time. If a process is killed meanwhile, the
            partial file stays: the next writer replaces one with a fixed name, others go with their folder.
        durable: wait until it is on the disk; not for what is moved on before anybody is told of it.

    Raises:
        OSError: the file could not be written and synced.
    """
    partial = partial or path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    try:
        yield partial
        if durable:
            sync(partial)
        partial.replace(path)
        if durable:
            sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """What was written to a file, or which names a folder holds, is on the disk when this returns."""
    if path.is_dir() and os.name == "nt":
        return  # Windows does not open folders
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_FOLDER_SYNC):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(message: str) -> Iterator[None]:
    """Turn all errors that mean a full disk into one.

    Raises:
        StorageFull: the disk or the user's quota is full, or the file is larger than the system allows.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK_ERRNOS:
            raise StorageFull(f"{message}: {error.strerror}") from error
        raise
