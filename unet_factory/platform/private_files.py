"""Files and folders for nobody else's eyes, also those that were there before with looser modes."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

OWNER_ONLY = 0o700
OWNER_AND_GROUP = 0o770


def make_private(path: Path, allowed: int = OWNER_ONLY, *, recursive: bool = False) -> None:
    """Take the rights beyond ``allowed`` to a file or folder from everybody; a link is left alone.

    A file of another user keeps its mode, which is logged.
    """
    inside = path.rglob("*") if recursive and path.is_dir() else ()
    for one in (path, *inside):
        if one.is_symlink():
            continue
        try:
            mode = one.stat().st_mode & 0o777
            if mode & ~allowed:
                one.chmod(mode & allowed)
        except FileNotFoundError:
            continue  # gone in this moment
        except PermissionError:
            log.warning("%s belongs to another user and stays open to others (mode %o)", one, mode)


@contextmanager
def owner_only() -> Iterator[None]:
    """What this process, and those that it starts, make during the block is for nobody else."""
    earlier = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(earlier)
