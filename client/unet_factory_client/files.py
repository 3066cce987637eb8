"""Files on the caller's disk: results appear whole or not at all, a folder of DICOM files is sent as one."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from unet_factory.domain.errors import NotAVolume


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; takes the place of ``path`` when the block succeeds, else is removed."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def one_file(scan: Path) -> Iterator[Path]:
    """``scan`` itself; of a folder a zip archive of the DICOM files below it, as long as the block lasts.

    Raises:
        NotAVolume: a folder without a DICOM file.
    """
    if not scan.is_dir():
        yield scan
        return
    from unet_factory.volume.dicom import dicom_files, pack_series  # slow to import, and seldom needed

    files = dicom_files(scan)
    if not files:
        raise NotAVolume("there is no DICOM file in the folder or below it")
    with TemporaryDirectory() as folder:
        packed = Path(folder) / "series.zip"
        pack_series(files, packed)
        yield packed
