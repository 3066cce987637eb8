"""Where a running ``serve`` keeps what must not lie on the disk that callers fill: sockets and mapped files."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unet_factory_cli.failures import CommandFailed

_MEMORY = Path("/dev/shm")  # noqa: S108 (the folder in it is private)


@contextmanager
def runtime_folder(data_dir: Path) -> Iterator[Path]:
    """A private folder for the one ``serve`` that holds ``data_dir``, gone after the block.

    It lies in memory where the system offers that: writing to a mapped file on a full disk kills the process (SIGBUS).
    One that a killed ``serve`` left behind is replaced.

    Raises:
        CommandFailed: the folder cannot be made.
    """
    name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
    folder = _home() / f"unet-factory-run-{os.getuid()}-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise CommandFailed(f"the folder {folder} for sockets and metrics cannot be made: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _home() -> Path:
    offered = [Path(os.environ.get("XDG_RUNTIME_DIR") or _MEMORY), _MEMORY]
    usable = (home for home in offered if home.is_dir() and os.access(home, os.W_OK | os.X_OK))
    return next(usable, Path(tempfile.gettempdir()))
