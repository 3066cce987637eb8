"""Receiving a multipart form as it comes: the file straight onto the store's disk, never beyond its limit.

Starlette's own form parser spools files to the system's temporary folder (often memory, and another disk than the
store's) and knows no size limit for them. This one writes and hashes each chunk where the file is to stay, in a thread,
and stops reading at the first byte too many.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MAX_BOUNDARY_LENGTH, MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from unet_factory.domain.errors import MalformedRequest, VolumeTooLarge
from unet_factory.domain.segmentation_parameters import PARAMETERS, SegmentationParameters
from unet_factory_service.errors import NotSupported

FILE_FIELD = "file"
ARCHIVE_FIELD = "pacs"
MAX_FIELDS = 32
MAX_FIELD_BYTES = 4096
MAX_PREAMBLE_BYTES = 2**16  # what may stand before the first part, RFC 2046 section 5.1.1

_WRITE_BYTES = 2**20
_QUOTED_CHARACTERS = 100
_OVERHEAD_BYTES = 2**18  # all that is not the file: boundaries, part headers, the other fields


class ReceivedScan(NamedTuple):
    """An upload on the store's disk; ``file`` is in the folder given to the receiver, and belongs to the caller."""

    file: Path
    sha256: str


class ReceivedForm(NamedTuple):
    """The texts by field, and the scan; None where the form names a series in an archive instead."""

    fields: dict[str, str]
    scan: ReceivedScan | None


CheckRoom = Callable[[int], None]
"""Raises StorageFull if there is no space for that many more bytes."""


async def receive_form(request: Request, folder: Path, max_file_bytes: int, check_room: CheckRoom) -> ReceivedForm:
    """Read the request's body; raises as soon as it cannot become a good one.

    Raises:
        MalformedRequest: no multipart form, a damaged one, or not one with either a file or an archive.
        VolumeTooLarge: the file has, or the request announces, more than ``max_file_bytes``.
        StorageFull: there is no room for it.
    """
    boundary = _boundary(request)
    check_announced_size(request, max_file_bytes, _OVERHEAD_BYTES)
    with (folder / "upload").open("wb") as file:
        receiver = _Receiver(file, boundary, max_file_bytes)
        await stream_into(request, receiver.write, check_room)
        fields, sha256 = receiver.finish()
    return ReceivedForm(fields, None if ARCHIVE_FIELD in fields else ReceivedScan(folder / "upload", sha256))


async def stream_into(
    request: Request, write: Callable[[bytes], None], check_room: CheckRoom, *, copies: int = 1
) -> None:
    """Give the body to ``write`` in larger pieces, in a thread, as long as there is room.

    Args:
        copies: how often its bytes lie on the disk before the request, or what follows from it, is done.

    Raises:
        HTTPException: 415, it is compressed as a whole (``Content-Encoding``).
        StorageFull: there is no space for what is announced, or for what comes.
    """
    _check_encoding(request)
    received_bytes = 0

    def take(data: bytes) -> None:
        nonlocal received_bytes
        check_room(copies * len(data) + (copies - 1) * received_bytes)
        write(data)
        received_bytes += len(data)

    if (announced := _announced_bytes(request)) > _WRITE_BYTES:  # else nothing is written before all has come
        await run_in_threadpool(check_room, copies * announced)
    buffered = bytearray()
    async for chunk in request.stream():
        buffered += chunk
        if len(buffered) >= _WRITE_BYTES:
            await run_in_threadpool(take, bytes(buffered))
            buffered.clear()
    await run_in_threadpool(take, bytes(buffered))


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        detail = f"the body has the content encoding {encoding[:_QUOTED_CHARACTERS]!r}; send it as it is, without one"
        raise HTTPException(415, detail, headers={"Accept-Encoding": "identity"})


def check_announced_size(request: Request, max_file_bytes: int, overhead_bytes: int) -> None:
    """Raise VolumeTooLarge, before anything is read, where the request announces more."""
    announced = _announced_bytes(request)
    if announced > max_file_bytes + overhead_bytes:
        raise too_large(announced, max_file_bytes)


def _announced_bytes(request: Request) -> int:
    announced = request.headers.get("Content-Length", "")
    return int(announced[:19]) if announced.isdecimal() else 0


def too_large(found: int, allowed: int) -> VolumeTooLarge:
    """The error for ``found`` bytes, perhaps not even all of them."""
    return VolumeTooLarge(
        f"upload of {found} bytes or more; at most {allowed} are allowed", found=found, allowed=allowed
    )


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


class _Receiver:
    """The parser's callbacks: which part is being read, and where its bytes go."""

    def __init__(self, file: BinaryIO, boundary: bytes, max_file_bytes: int) -> None:
        self._file, self._max_file_bytes = file, max_file_bytes
        self._texts: dict[str, bytearray] = {}
        self._names: set[str] = set()
        self._hash = hashlib.sha256()
        self._total_bytes = self._file_bytes = 0
        self._header_name, self._header_value, self._disposition = bytearray(), bytearray(), b""
        self._part = ""
        self._complete = False
        self._preamble = Preamble(boundary)
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._header_name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._open_part,
                "on_part_data": self._take,
                "on_end": self._end,
            },
        )

    def write(self, data: bytes) -> None:
        self._total_bytes += len(data)
        if self._total_bytes > self._max_file_bytes + _OVERHEAD_BYTES:
            raise too_large(self._total_bytes, self._max_file_bytes)
        try:
            self._parser.write(self._preamble.strip(data))
        except FormParserError as error:
            raise MalformedRequest(f"the multipart form is damaged: {error}") from error

    def finish(self) -> tuple[dict[str, str], str]:
        """(texts by field, sha256 of the file)."""
        if not self._complete:
            raise MalformedRequest("the multipart form ends before its last boundary")
        if (FILE_FIELD in self._names) == (ARCHIVE_FIELD in self._names):
            raise MalformedRequest(
                f"the form must have either a field {FILE_FIELD!r} with the volume or {ARCHIVE_FIELD!r}",
                fields=sorted(self._names),
            )
        try:
            texts = {name: bytes(text).decode() for name, text in self._texts.items()}
        except UnicodeDecodeError as error:
            raise MalformedRequest("a field of the form is not UTF-8 text") from error
        return texts, self._hash.hexdigest()

    def _begin_part(self) -> None:
        self._disposition = b""

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _open_part(self) -> None:
        """The part's name decides where it goes; a file name in its header is not even looked at."""
        _, options = parse_options_header(self._disposition)
        self._part = options.get(b"name", b"").decode("utf-8", "replace")
        if not self._part:
            raise MalformedRequest("a part of the form has no name")
        if self._part in self._names:
            raise MalformedRequest(f"the form has the field {self._part[:100]!r} twice")
        if len(self._names) == MAX_FIELDS:
            raise MalformedRequest(f"the form has more than {MAX_FIELDS} fields")
        self._names.add(self._part)
        if self._part != FILE_FIELD:
            self._texts[self._part] = bytearray()

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._part == FILE_FIELD:
            self._take_file(memoryview(data)[start:end])
            return
        text = self._texts[self._part]
        text += data[start:end]
        if len(text) > MAX_FIELD_BYTES:
            raise MalformedRequest(
                f"the field {self._part[:100]!r} has more than {MAX_FIELD_BYTES} bytes; scans go in {FILE_FIELD!r}"
            )

    def _take_file(self, data: memoryview) -> None:
        self._file_bytes += len(data)
        if self._file_bytes > self._max_file_bytes:
            raise too_large(self._file_bytes, self._max_file_bytes)
        self._hash.update(data)
        self._file.write(data)

    def _end(self) -> None:
        self._complete = True


def read_form(fields: Mapping[str, str]) -> SegmentationParameters:
    """What the caller wants done with the scan.

    Raises:
        NotSupported: a field that is not a parameter.
        FactoryError: a value that is not allowed, as :meth:`SegmentationParameters.from_texts`.
    """
    if unknown := sorted(name[:_QUOTED_CHARACTERS] for name in fields.keys() - PARAMETERS.keys()):
        supported = [FILE_FIELD, *sorted(PARAMETERS)]
        raise NotSupported(
            f"not supported: {', '.join(unknown)}; the form may have {', '.join(supported)}",
            unsupported=unknown,
            supported=supported,
        )
    return SegmentationParameters.from_texts(fields)


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("Content-Type", ""))
    if kind != b"multipart/form-data" or not 0 < len(options.get(b"boundary", b"")) <= MAX_BOUNDARY_LENGTH:
        raise MalformedRequest(
            f"send the volume as multipart/form-data, in the field {FILE_FIELD!r}, with a boundary of 1 to"
            f" {MAX_BOUNDARY_LENGTH} bytes",
            content_type=request.headers.get("Content-Type", "")[:200],
        )
    return options[b"boundary"]
