"""The bytes of the voxels: inflated in small pieces, so that a file never costs more than its header may claim."""

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from unet_factory.domain.errors import NotAVolume
from unet_factory.volume.header import Payload

GZIP_MAGIC = b"\x1f\x8b"
MAX_DEFLATE_RATIO = 1032  # what deflate can reach at best (zlib's technical details)
COMPRESSION_LEVEL = 4  # label maps shrink a hundredfold at any level
TRAILING_SLACK_BYTES = 4096  # writers that pad to a disk block; more than that contradicts the header
_PIECE_BYTES = 2**20
_DEFLATED_BYTES = 2**16  # what is left of them is copied each time that a piece is full
_GZIP_OR_ZLIB = 47  # zlib's window bits: detect either wrapper, and verify its checksum


def file_bytes(path: Path) -> int:
    """The size of the file at ``path``. Raises NotAVolume if there is no readable file."""
    with _reading(path) as source:
        return source.seek(0, io.SEEK_END)


def first_bytes(path: Path, count: int, *, deflated_from: int | None = None) -> bytes:
    """At most ``count`` bytes from the start of the file, or of what inflates from ``deflated_from``."""
    with _opened(path, deflated_from, buffer_bytes=count) as stream:
        return stream.read(count)


def check_length(path: Path, payload: Payload) -> None:
    """Check that the file holds the payload that its header declares, as cheaply as certainty allows.

    A plain file's size and the length at the end of a gzip stream decide at once; only a gzip file whose length does
    not match is inflated, piece by piece, and dropped. ``payload_pieces`` finds what a forged length hides.

    Raises:
        NotAVolume: truncated, or longer than declared; the message names both numbers.
    """
    size = file_bytes(path)
    expected = payload.offset + payload.n_bytes
    if payload.deflated_from is None:
        _check_plain_length(payload, size)
    elif expected > MAX_DEFLATE_RATIO * size:
        raise NotAVolume(
            f"truncated: expected {expected} bytes, but {size} compressed bytes cannot hold more than "
            f"{MAX_DEFLATE_RATIO * size}",
            expected_bytes=expected,
        )
    elif _gzip_length(path, payload.deflated_from, size) not in (None, expected % 2**32):
        for _ in payload_pieces(path, payload):
            pass


def payload_pieces(path: Path, payload: Payload, piece_bytes: int = _PIECE_BYTES) -> Iterator[bytes]:
    """Yield the payload in pieces of ``piece_bytes`` (the last may be shorter), holding one at a time.

    Raises:
        NotAVolume: truncated, longer than declared, or damaged (checksum).
    """
    with _opened(path, payload.deflated_from) as stream:
        _skip(stream, payload)
        found = 0
        while found < payload.n_bytes:
            wanted = min(piece_bytes, payload.n_bytes - found)
            piece = stream.read(wanted)
            found += len(piece)
            if len(piece) < wanted:
                raise _truncated(payload, payload.offset + found)
            yield piece
        _expect_end(stream, payload)


class _Inflated(io.RawIOBase):
    """What a zlib or gzip stream inflates to, several gzip members in a row too, never more at once than asked for."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._exhausted = False

    @property
    def ended_early(self) -> bool:
        """The file ended before the stream and its checksum did."""
        return self._exhausted and not self._decoder.eof

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        while not self._decoder.eof or self._begin_next_member():
            chunk = self._decoder.unconsumed_tail or self._source.read(_DEFLATED_BYTES)
            self._exhausted = not chunk
            data = self._decoder.decompress(chunk, len(buffer))
            if data or self._exhausted:
                buffer[: len(data)] = data
                return len(data)
        return 0

    def _begin_next_member(self) -> bool:
        rest = self._decoder.unused_data
        if len(rest) < len(GZIP_MAGIC):
            rest += self._source.read(_DEFLATED_BYTES)
        if not rest.startswith(GZIP_MAGIC):
            return False  # padding
        self._decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._source.seek(-len(rest), io.SEEK_CUR)
        return True


@contextmanager
def _reading(path: Path) -> Iterator[io.BufferedReader]:
    try:
        with path.open("rb") as source:
            yield source
    except OSError as error:
        raise NotAVolume(f"the file cannot be read: {error.strerror or error}") from error
    except zlib.error as error:
        raise NotAVolume(f"the compressed data is damaged: {error}") from error


@contextmanager
def _opened(path: Path, deflated_from: int | None, buffer_bytes: int = _PIECE_BYTES) -> Iterator[io.BufferedReader]:
    """The file, or what inflates from ``deflated_from``: as many bytes as ``buffer_bytes`` at once."""
    with _reading(path) as source:
        source.seek(deflated_from or 0)
        yield source if deflated_from is None else io.BufferedReader(_Inflated(source), buffer_bytes)


def _skip(stream: io.BufferedReader, payload: Payload) -> None:
    left = payload.offset
    while left:
        skipped = len(stream.read(min(left, _PIECE_BYTES)))
        if not skipped:
            raise _truncated(payload, payload.offset - left)
        left -= skipped


def _expect_end(stream: io.BufferedReader, payload: Payload) -> None:
    """Only padding may follow the payload, and a compressed stream must end with its checksum."""
    trailing = len(stream.read(TRAILING_SLACK_BYTES + 1))
    if trailing > TRAILING_SLACK_BYTES:
        raise _too_long(payload)
    if isinstance(stream.raw, _Inflated) and stream.raw.ended_early:
        raise NotAVolume("truncated: the compressed data ends before its checksum")


def _check_plain_length(payload: Payload, size: int) -> None:
    if size < payload.offset + payload.n_bytes:
        raise _truncated(payload, size)
    if size > payload.offset + payload.n_bytes + TRAILING_SLACK_BYTES:
        raise _too_long(payload)


def _gzip_length(path: Path, start: int, size: int) -> int | None:
    """The inflated length modulo 2**32 that ends a gzip stream; None for a zlib stream, which does not say."""
    with _reading(path) as source:
        source.seek(start)
        if source.read(2) != GZIP_MAGIC:
            return None
        source.seek(max(start, size - 4))
        return int.from_bytes(source.read(4), "little")


def _truncated(payload: Payload, found: int) -> NotAVolume:
    expected = payload.offset + payload.n_bytes
    return NotAVolume(
        f"truncated: expected {expected} bytes, found {found}", expected_bytes=expected, found_bytes=found
    )


def _too_long(payload: Payload) -> NotAVolume:
    expected = payload.offset + payload.n_bytes
    return NotAVolume(
        f"the file holds more than the {expected} bytes that its header declares", expected_bytes=expected
    )
