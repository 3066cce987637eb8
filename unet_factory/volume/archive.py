"""The members of a zip archive, or a bare file as its own only member: read within limits, never extracted by name."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol, Self

from unet_factory.domain.errors import NotAVolume, StorageFull
from unet_factory.domain.volume_limits import DEFAULT_LIMITS, VolumeLimits, check_limit
from unet_factory.platform.atomic_files import FULL_DISK_ERRNOS
from unet_factory.volume.dicom_start import HEAD_BYTES, is_dicom
from unet_factory.volume.payload import file_bytes, first_bytes

ZIP_MAGICS = (b"PK\3\4", b"PK\5\6")
_END, _END64, _LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_END_BYTES, _END64_BYTES, _LOCATOR64_BYTES, _MAX_COMMENT_BYTES = 22, 56, 20, 2**16
_DIRECTORY_BYTES_PER_MEMBER = 1024
_ENCRYPTED = 1
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)


class Readable(Protocol):
    """What is read forwards, at most ``size`` bytes at a time; no bytes mean its end."""

    def read(self, size: int, /) -> bytes: ...


class Archive:
    """A context manager. ``len()`` members by index; damage shows as NotAVolume, excess as VolumeTooLarge."""

    def __init__(self, path: Path, limits: VolumeLimits = DEFAULT_LIMITS) -> None:
        """
        Raises:
            NotAVolume: no such file, a damaged or encrypted archive, or one of an unusual compression.
            VolumeTooLarge: more members, or more bytes decompressed, than ``limits`` allow.
        """
        self._path = path
        self._zip: zipfile.ZipFile | None = None
        self._members: list[zipfile.ZipInfo] = []
        if first_bytes(path, 4) in ZIP_MAGICS:
            self._open_zip(limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()

    def __len__(self) -> int:
        return 1 if self._zip is None else len(self._members)

    def member_bytes(self, index: int) -> int:
        """The size of a member, decompressed."""
        return file_bytes(self._path) if self._zip is None else self._members[index].file_size

    def head(self, index: int, count: int) -> bytes:
        """At most the first ``count`` bytes of a member."""
        with self.member(index) as stream:
            return stream.read(count)

    @contextmanager
    def member(self, index: int) -> Iterator[Readable]:
        """A member, to be read forwards; it is not unpacked to anywhere. Its checksum is verified at its end."""
        with _damage():
            opened = self._path.open("rb") if self._zip is None else self._zip.open(self._members[index])
        with opened as stream:
            yield stream if self._zip is None else _Member(stream)

    def _open_zip(self, limits: VolumeLimits) -> None:
        with _damage():
            check_limit(
                "directory of the archive",
                "bytes",
                _directory_bytes(self._path),
                limits.members * _DIRECTORY_BYTES_PER_MEMBER,
            )
            self._zip = zipfile.ZipFile(self._path)
        self._members = [member for member in self._zip.infolist() if not member.is_dir()]
        check_limit("archive", "members", len(self._members), limits.members)
        check_limit(
            "archive",
            "bytes decompressed",
            sum(member.file_size for member in self._members),
            limits.decompressed_bytes,
        )
        if any(member.flag_bits & _ENCRYPTED for member in self._members):
            raise NotAVolume("the zip archive is encrypted; send it without a password")
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in self._members):
            raise NotAVolume("the zip archive is compressed by an unusual method; readable are stored and deflated")


class _Member:
    """What a zip member inflates to; damage shows as NotAVolume."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        with _damage():
            return self._stream.read(size)


def holds_dicom(path: Path, limits: VolumeLimits) -> bool:
    """Whether the zip archive at ``path`` has a DICOM object among its members; raises as ``Archive`` does."""
    with Archive(path, limits) as archive:
        return any(is_dicom(archive.head(index, HEAD_BYTES)) for index in range(len(archive)))


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise NotAVolume("the zip archive is damaged") from error
    except OSError as error:
        if error.errno in FULL_DISK_ERRNOS:
            raise StorageFull("no space left to unpack the archive") from error
        raise NotAVolume(f"the file cannot be read: {error.strerror or 'damaged'}") from error


def _directory_bytes(path: Path) -> int:
    """What the end of the archive says of its directory's size: ``zipfile`` loads it all before it can be counted."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _MAX_COMMENT_BYTES - _END_BYTES - _END64_BYTES - _LOCATOR64_BYTES))
        tail = file.read()
    ends = {tail.rfind(_END), len(tail) - _END_BYTES} - {-1}
    return max((_stated_bytes(tail, end) for end in ends), default=0)


def _stated_bytes(tail: bytes, end: int) -> int:
    if end < 0 or tail[end : end + 4] != _END or len(tail) < end + _END_BYTES:
        return 0
    (stated,) = struct.unpack_from("<I", tail, end + 12)
    locator = end - _LOCATOR64_BYTES
    record = locator - _END64_BYTES
    if record < 0 or tail[locator : locator + 4] != _LOCATOR64 or tail[record : record + 4] != _END64:
        return int(stated)
    return int(struct.unpack_from("<Q", tail, record + 40)[0])
