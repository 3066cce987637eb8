"""Copies of model files that the processes of one host map together, so that their bytes are in memory once."""

import logging
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from unet_factory.platform.file_digest import file_digest

log = logging.getLogger(__name__)

_SUFFIX = ".shared-weights"
_READ_ONLY = 0o400
_SPARED_S = 600.0


class SharedCopies:
    """A folder of copies, each named by the digest of its bytes.

    A mapped file must never change: if somebody writes over it, the process computes with what was written; if it is
    cut, the process dies (SIGBUS). Model files belong to people who may do either. These copies are only ever added
    whole and removed, and whoever has mapped a removed file keeps it. Nobody but workers may write to the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stuck: set[Path] = set()

    def copy_of(self, path: Path, digest: str) -> Path | None:
        """The copy of the file with this digest, made if there is none yet; None if it cannot be had."""
        copy = self._folder / f"{digest}{_SUFFIX}"
        try:
            if copy.exists():
                if file_digest(copy) == digest:
                    return copy
                copy.unlink(missing_ok=True)  # a crash of the machine has damaged it
            self._folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self._folder, prefix=copy.name) as named:
                partial = Path(named.name)
                shutil.copyfile(path, partial)
                partial.chmod(_READ_ONLY)
                if file_digest(partial) != digest:
                    raise OSError("the file changed while it was copied")
                with suppress(FileExistsError):  # another worker was faster: its copy is the one to share
                    copy.hardlink_to(partial)
        except OSError as error:
            log.warning("%s is read into this worker's own memory, as no copy can be shared: %s", path.name, error)
            return None
        return copy

    def keep_only(self, digests: Collection[str]) -> None:
        """Remove copies of other files, and what a killed worker left of one.

        Those of the last ten minutes are spared: another worker may be writing them, or know newer models.
        """
        kept, spared_since = {f"{digest}{_SUFFIX}" for digest in digests}, time.time() - _SPARED_S
        for path in self._folder.glob(f"*{_SUFFIX}*"):
            try:
                with suppress(FileNotFoundError):
                    if path.name not in kept and path.stat().st_mtime < spared_since:
                        path.unlink()
            except OSError as error:
                if path not in self._stuck:
                    log.warning("%s is a copy that nobody needs any more, but cannot be removed: %s", path, error)
                self._stuck.add(path)
