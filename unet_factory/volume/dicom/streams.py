"""Streams that bound what a DICOM object may cost: a header kept in memory up to a limit, and deflated data inflated in
pieces. Nothing here holds more than the header, whatever follows it."""

import zlib

from unet_factory.domain.errors import NotAVolume, VolumeTooLarge
from unet_factory.domain.volume_limits import VolumeLimits
from unet_factory.volume.archive import Readable

PIECE_BYTES = 2**16
_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # little and big endian
_SEAM_BYTES = len(_ITEM_TAGS[0]) - 1


class Inflating:
    """What the raw deflate stream in ``source`` inflates to (PS3.5 section A.5), never more at once than asked for."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._decoder = zlib.decompressobj(-zlib.MAX_WBITS)

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none only at the end.

        Raises:
            NotAVolume: the data breaks off.
            zlib.error: the data is damaged.
        """
        while not self._decoder.eof:
            chunk = self._decoder.unconsumed_tail or self._source.read(PIECE_BYTES)
            data = self._decoder.decompress(chunk, size)
            if data:
                return data
            if not chunk:
                raise NotAVolume("truncated: the data of a deflated DICOM object ends early")
        return b""


class HeaderStream:
    """The start of ``source`` as a file that can be read again and again; what was read of it stays in memory.

    More than ``limits.header_bytes`` bytes, read in more than ``limits.header_reads`` pieces, or more than
    ``limits.header_items`` items of sequences raise VolumeTooLarge: an element costs much more memory than its bytes.
    """

    def __init__(self, source: Readable, limits: VolumeLimits) -> None:
        self._source, self._limits = source, limits
        self._kept = bytearray()
        self._at = self._reads = self._items = 0
        self._ended = False

    def read(self, size: int = -1, /) -> bytes:
        self._reads += 1
        self._check("pieces", self._reads, self._limits.header_reads)
        until = self._limits.header_bytes + 1 if size < 0 else self._at + size
        while len(self._kept) < until and not self._ended:
            self._keep_more()
        piece = bytes(self._kept[self._at : until])
        self._at += len(piece)
        return piece

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """From the start (0) or from here (1); as in a file, also to where nothing has been read yet."""
        self._at = offset if whence == 0 else self._at + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def rest(self) -> "Rest":
        """What follows the current position, to be read forwards once; the stream itself is then at its end."""
        return Rest(bytes(self._kept[self._at :]), self._source)

    def _keep_more(self) -> None:
        piece = self._source.read(PIECE_BYTES)
        self._ended = not piece
        seam = bytes(self._kept[-_SEAM_BYTES:]) + piece
        self._items += max(seam.count(tag) for tag in _ITEM_TAGS)
        self._kept += piece
        self._check("items of sequences", self._items, self._limits.header_items)
        self._check("bytes", len(self._kept) - PIECE_BYTES, self._limits.header_bytes)

    def _check(self, unit: str, found: int, allowed: int) -> None:
        if found > allowed:
            raise VolumeTooLarge(
                f"the header of a DICOM object has more than {allowed} {unit}, the most that is read", allowed=allowed
            )


class Rest:
    """Bytes that were read ahead, then ``source``."""

    def __init__(self, ahead: bytes, source: Readable) -> None:
        self._ahead, self._source = ahead, source

    def read(self, size: int, /) -> bytes:
        if self._ahead:
            piece, self._ahead = self._ahead[:size], self._ahead[size:]
            return piece
        return self._source.read(size)


def skip(source: Readable, count: int) -> int:
    """Read ``count`` bytes and drop them; returns how many there were."""
    left = count
    while left and (piece := source.read(min(left, PIECE_BYTES))):
        left -= len(piece)
    return count - left


def read_exactly(source: Readable, count: int) -> bytes:
    """``count`` bytes, fewer only where ``source`` ends."""
    pieces, left = [], count
    while left and (piece := source.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
