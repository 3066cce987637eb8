"""Copies of model files that the processes of one host map together, so that their bytes are in memory once."""

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from unet_factory.platform.atomic_files import whole_file
from unet_factory.platform.file_digest import file_digest

log = logging.getLogger(__name__)

_SUFFIX = ".weights"
_READ_ONLY = 0o400


class SharedCopies:
    """A folder of copies, each named by the digest of its bytes.

    A file that is mapped must never change: a process reads what was written over it, and is ended (SIGBUS) where the
    file became shorter. Model files belong to people who may do either; nobody else writes to these copies. They are
    only ever put there whole and removed, which leaves those who have mapped them what they have.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def copy_of(self, path: Path, digest: str) -> Path | None:
        """The copy of a file that has this digest, made if there is none; None if it cannot be had."""
        copy = self._folder / f"{digest}{_SUFFIX}"
        try:
            if copy.exists() and file_digest(copy) == digest:  # else a crash of the machine has cut it
                return copy
            self._folder.mkdir(parents=True, exist_ok=True)
            with whole_file(copy) as partial:
                shutil.copyfile(path, partial)
                partial.chmod(_READ_ONLY)
                if file_digest(partial) != digest:
                    raise OSError("the file changed while it was copied")
        except OSError as error:
            log.warning("%s is not shared with other workers, but read into this one's memory: %s", path.name, error)
            return None
        return copy

    def keep_only(self, digests: Collection[str]) -> None:
        """Remove the copies of all other files. Whoever has mapped one keeps it; whoever wants it again, copies it."""
        for copy in self._folder.glob(f"*{_SUFFIX}"):
            if copy.stem not in digests:
                try:
                    copy.unlink(missing_ok=True)
                except OSError as error:
                    log.warning("%s could not be removed: %s", copy, error)
