"""DICOM uploads: however they come, what is stored is one zip archive that holds one series.

They come as a file of a form, or as objects in ``multipart/related; type="application/dicom"`` (PS3.18 section 8.7).
"""

import hashlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MAX_BOUNDARY_LENGTH, MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from unet_factory.domain.errors import MalformedRequest, NotAVolume
from unet_factory.domain.segmentation_parameters import NEVER_IN_A_URL, PARAMETERS
from unet_factory.volume import VolumeLimits
from unet_factory_service.segmentations.upload import (
    CheckRoom,
    Preamble,
    ReceivedForm,
    ReceivedScan,
    check_announced_size,
    stream_into,
    too_large,
)

MEDIA_TYPE = "multipart/related"
MAX_PARTS = 20_000
QUERY_FIELDS = tuple(name for name in PARAMETERS if name not in NEVER_IN_A_URL)

_ZIP_MAGIC = b"PK"
_PART_TYPE = b"application/dicom"
_OVERHEAD_BYTES = 16 * 2**20  # boundaries and headers of that many parts
_COPIES = 2  # the parts themselves, and the archive that they are packed into


def is_dicom_body(request: Request) -> bool:
    """Whether the body says that it is DICOM objects and not a form."""
    return _media_type(request) == MEDIA_TYPE


def _media_type(request: Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


async def receive_dicom_body(request: Request, folder: Path, max_bytes: int, check_room: CheckRoom) -> ReceivedForm:
    """The objects of a ``multipart/related`` body as one zip archive; the fields come from the URL's query.

    Raises:
        MalformedRequest: a damaged body, or a parameter in the URL that must not be there.
        NotAVolume, VolumeTooLarge, StorageFull: as ``receive_dicom_parts``.
    """
    fields = _query_fields(request)
    parts = await receive_dicom_parts(request, folder, max_bytes, check_room)
    return ReceivedForm(fields, await run_in_threadpool(_packed, parts, folder / "upload"))


def as_one_series(scan: ReceivedScan, series_uid: str | None, limits: VolumeLimits) -> ReceivedScan:
    """A DICOM upload as an archive of just the series that ``series_uid`` names; a bare DICOM file as an archive too.

    Raises:
        NotAVolume, VolumeTooLarge, SeriesMixed, SlicesInconsistent: as ``unet_factory.volume.dicom.read_series``.
    """
    if series_uid is None and _is_zip(scan.file):
        return scan
    from unet_factory.volume.dicom import extract_series

    target = scan.file.with_name("series")
    extract_series(scan.file, target, series_uid, limits)
    sha256 = hashlib.sha256(f"{scan.sha256} {series_uid or ''}".encode()).hexdigest()
    return ReceivedScan(target, sha256)


def _query_fields(request: Request) -> dict[str, str]:
    given = [name for name, _ in request.query_params.multi_items()]
    if set(given) - set(QUERY_FIELDS) or len(set(given)) != len(given):
        raise MalformedRequest(
            f"with a multipart/related body, the URL may have only {', '.join(QUERY_FIELDS)}, each at most once",
            allowed=list(QUERY_FIELDS),
        )
    return dict(request.query_params)


def _packed(parts: list[Path], target: Path) -> ReceivedScan:
    from unet_factory.volume.dicom import pack_series

    pack_series(parts, target)
    for part in parts:
        part.unlink()
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return ReceivedScan(target, digest.hexdigest())


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC


async def receive_dicom_parts(request: Request, folder: Path, max_bytes: int, check_room: CheckRoom) -> list[Path]:
    """The parts of the body, in their order, as files in ``folder``; whether they are DICOM is not looked at.

    An ``application/dicom`` body is a single part.

    Raises:
        NotAVolume: another media type.
        MalformedRequest: a damaged body, or one without parts.
        VolumeTooLarge: the parts have, or the request announces, more than ``max_bytes``, or there are too many.
        StorageFull: there is no room for them.
    """
    if _media_type(request) == _PART_TYPE.decode():
        return [await _receive_single(request, folder, max_bytes, check_room)]
    boundary = _boundary(request)
    check_announced_size(request, max_bytes, _OVERHEAD_BYTES)
    with _Parts(folder, boundary, max_bytes) as parts:
        await stream_into(request, parts.write, check_room, copies=_COPIES)
        return parts.finish()


async def _receive_single(request: Request, folder: Path, max_bytes: int, check_room: CheckRoom) -> Path:
    check_announced_size(request, max_bytes, 0)
    path = folder / "part-000000"
    with path.open("xb") as file:

        def write(data: bytes) -> None:
            if file.tell() + len(data) > max_bytes:
                raise too_large(file.tell() + len(data), max_bytes)
            file.write(data)

        await stream_into(request, write, check_room, copies=_COPIES)
    return path


class _Parts:
    """The parser's callbacks: each part to a file of its own."""

    def __init__(self, folder: Path, boundary: bytes, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._paths: list[Path] = []
        self._file: BinaryIO | None = None
        self._total_bytes = self._part_bytes = 0
        self._complete = False
        self._preamble = Preamble(boundary)
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_part_data": self._take,
                "on_part_end": self._close,
                "on_end": self._end,
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def write(self, data: bytes) -> None:
        self._total_bytes += len(data)
        if self._total_bytes > self._max_bytes + _OVERHEAD_BYTES:
            raise too_large(self._total_bytes, self._max_bytes)
        try:
            self._parser.write(self._preamble.strip(data))
        except FormParserError as error:
            raise MalformedRequest(f"the multipart body is damaged: {error}") from error

    def finish(self) -> list[Path]:
        if not self._complete:
            raise MalformedRequest("the multipart body ends before its last boundary")
        if not self._paths:
            raise MalformedRequest("the multipart body has no parts")
        return self._paths

    def _begin(self) -> None:
        if len(self._paths) == MAX_PARTS:
            raise MalformedRequest(f"the body has more than {MAX_PARTS} parts")
        self._paths.append(self._folder / f"part-{len(self._paths):06d}")
        self._file = self._paths[-1].open("xb")

    def _take(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None
        self._part_bytes += end - start
        if self._part_bytes > self._max_bytes:
            raise too_large(self._part_bytes, self._max_bytes)
        self._file.write(memoryview(data)[start:end])

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _end(self) -> None:
        self._complete = True


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("Content-Type", ""))
    if kind != MEDIA_TYPE.encode() or options.get(b"type", _PART_TYPE).lower() != _PART_TYPE:
        raise NotAVolume(
            'send the DICOM objects as multipart/related; type="application/dicom", or one alone as application/dicom'
        )
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY_LENGTH:
        raise MalformedRequest(f"the multipart body needs a boundary of 1 to {MAX_BOUNDARY_LENGTH} bytes")
    return boundary
