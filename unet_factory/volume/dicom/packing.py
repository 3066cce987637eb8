"""A series as the one zip archive that travels through the system."""

import zipfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from unet_factory.domain.volume_limits import DEFAULT_LIMITS, VolumeLimits
from unet_factory.volume.archive import Archive, Readable
from unet_factory.volume.dicom.choice import images_of_series
from unet_factory.volume.dicom.streams import PIECE_BYTES
from unet_factory.volume.dicom_start import HEAD_BYTES, is_dicom
from unet_factory.volume.payload import first_bytes

_EPOCH = (1980, 1, 1, 0, 0, 0)  # no time of writing: the same files are the same bytes


def pack_series(files: Iterable[Path], target: Path) -> None:
    """Write ``files`` to the zip archive ``target``, stored, under neutral names and in the order given."""
    with zipfile.ZipFile(target, "w") as archive:
        for index, file in enumerate(files):
            with file.open("rb") as source:
                _add(archive, index, source)


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files in ``folder`` and below, by content, in the order of their paths."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and is_dicom(first_bytes(path, HEAD_BYTES))]


def extract_series(source: Path, target: Path, series_uid: str | None, limits: VolumeLimits = DEFAULT_LIMITS) -> None:
    """Write the images of one series in ``source`` (a zip archive or a bare DICOM file) to the zip archive ``target``.

    Raises:
        NotAVolume, SeriesMixed, SlicesInconsistent, VolumeTooLarge: as in ``read_series``.
    """
    with ExitStack() as stack:
        found = stack.enter_context(Archive(source, limits))
        images, _ = images_of_series(found, limits, series_uid)
        archive = stack.enter_context(zipfile.ZipFile(target, "w"))
        for index, image in enumerate(images):
            with found.member(image.member) as member:
                _add(archive, index, member)


def _add(archive: zipfile.ZipFile, index: int, source: Readable) -> None:
    with archive.open(zipfile.ZipInfo(f"{index:06d}.dcm", _EPOCH), "w", force_zip64=True) as member:
        while piece := source.read(PIECE_BYTES):
            member.write(piece)
