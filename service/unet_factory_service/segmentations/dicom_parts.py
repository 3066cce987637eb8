"""DICOM objects in a body of ``multipart/related; type="application/dicom"`` (PS3.18 section 8.7), as they come."""

import re
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MAX_BOUNDARY_LENGTH, MultipartParser, parse_options_header

from unet_factory.domain.errors import MalformedRequest, NotAVolume
from unet_factory_service.segmentations.upload import CheckRoom, check_announced_size, stream_into, too_large

MEDIA_TYPE = "multipart/related"
MAX_PARTS = 20_000
MAX_PREAMBLE_BYTES = 2**16  # what may stand before the first part, RFC 2046 section 5.1.1

_PART_TYPE = b"application/dicom"
_OVERHEAD_BYTES = 16 * 2**20  # boundaries and headers of that many parts
_COPIES = 2  # the parts themselves, and the archive that they are packed into


async def receive_dicom_parts(request: Request, folder: Path, max_bytes: int, check_room: CheckRoom) -> list[Path]:
    """The parts of the body, in their order, as files in ``folder``; whether they are DICOM is not looked at.

    Raises:
        NotAVolume: another media type.
        MalformedRequest: a damaged body, or one without parts.
        VolumeTooLarge: the parts have, or the request announces, more than ``max_bytes``, or there are too many.
        StorageFull: there is no room for them.
    """
    boundary = _boundary(request)
    check_announced_size(request, max_bytes, _OVERHEAD_BYTES)
    with _Parts(folder, boundary, max_bytes) as parts:
        await stream_into(request, parts.write, check_room, copies=_COPIES)
        return parts.finish()


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
        raise NotAVolume('send the DICOM objects as multipart/related; type="application/dicom"')
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY_LENGTH:
        raise MalformedRequest(f"the multipart body needs a boundary of 1 to {MAX_BOUNDARY_LENGTH} bytes")
    return boundary


class Preamble:
    """Drops what precedes the first delimiter line, and the padding at its end, which python-multipart refuses."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = re.compile(rb"\r\n(--" + re.escape(boundary) + rb")(?:[ \t]*(?=\r\n)|(?=--))")
        self._held = bytearray(b"\r\n")  # the body's first line has none before it
        self._is_past = False

    def strip(self, data: bytes) -> bytes:
        """What of the next piece of the body is to be parsed.

        Raises:
            MalformedRequest: no delimiter has come in the first 64 KiB.
        """
        if self._is_past:
            return data
        self._held += data
        found = self._delimiter.search(self._held)
        if found is None:
            if len(self._held) > MAX_PREAMBLE_BYTES:
                raise MalformedRequest(
                    f"the multipart body's boundary does not come in its first {MAX_PREAMBLE_BYTES} bytes"
                )
            return b""
        self._is_past = True
        return found[1] + bytes(self._held[found.end() :])
