"""What the caller sends: a scan's file, or a folder of DICOM files as one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from unet_factory.domain.errors import NotAVolume


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
