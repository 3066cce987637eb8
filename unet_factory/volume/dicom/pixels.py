"""Pixel data: judged from the header, decoded by pydicom's plugins frame by frame, straight into the volume."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from tempfile import SpooledTemporaryFile
from typing import IO, BinaryIO, cast

import numpy as np
import pydicom.uid as uids
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options

from unet_factory.domain.errors import NotAVolume
from unet_factory.domain.volume_limits import VolumeLimits
from unet_factory.volume.archive import Archive, Readable
from unet_factory.volume.dicom import jpeg
from unet_factory.volume.dicom.objects import BROKEN, NATIVE, PIXEL_DATA, DicomObject, PixelElement, readable
from unet_factory.volume.dicom.slices import Slice
from unet_factory.volume.dicom.streams import PIECE_BYTES, Inflating, read_exactly, skip
from unet_factory.volume.dicom.values import texts, whole

# which plugin decodes what: fixed, so that the same file gives the same voxels wherever more of them are installed
_PLUGINS: dict[uids.UID, str] = {
    uids.RLELossless: "pydicom",  # pylibjpeg-rle panics on damaged data, which no handler of errors catches
    **dict.fromkeys(jpeg.SYNTAXES, jpeg.PLUGIN),
    **dict.fromkeys((uids.JPEGLSLossless, uids.JPEGLSNearLossless), "pyjpegls"),
    **dict.fromkeys((uids.JPEG2000Lossless, uids.JPEG2000), "pylibjpeg"),
    **dict.fromkeys((uids.HTJ2KLossless, uids.HTJ2KLosslessRPCL, uids.HTJ2K), "pylibjpeg"),
}
_IN_MEMORY_BYTES = 32 * 2**20
_GREY = ("MONOCHROME1", "MONOCHROME2")


def check_pixels(image: DicomObject, name: str) -> np.dtype[np.generic]:
    """The type of the stored values of an image, which is grey, readable and complete as far as its header can tell.

    Raises:
        NotAVolume: colours, an unknown compression, bits that cannot be, or pixel data of another length than its
            description has.
    """
    dataset = image.dataset
    with readable(name):
        _check_grey(dataset, name)
        dtype = _dtype(dataset, name)
        pixels = image.pixels
        if pixels is None:
            raise NotAVolume(f"truncated: {name} has no pixel data")
        if pixels.tag != PIXEL_DATA:
            raise NotAVolume(f"the pixels of {name} are floating-point numbers; whole numbers (PixelData) are needed")
        if pixels.is_encapsulated:
            _check_compression(image.stated_syntax, name)
        _check_length(dataset, pixels, name, dtype)
        return dtype


def read_slices(
    archive: Archive, slices: Sequence[Slice], limits: VolumeLimits
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(index in ``slices``, pixels (row, column) after the rescale), in any order, object by object.

    Raises:
        NotAVolume: pixel data that cannot be decoded.
    """
    sources = {one.source.member: one.source for one in slices}
    for member, source in sources.items():
        wanted = sorted(
            ((index, one) for index, one in enumerate(slices) if one.source.member == member),
            key=lambda pair: pair[1].frame,
        )
        frames = [one.frame - 1 for _, one in wanted]
        with closing(stored_frames(archive, source, frames, limits)) as decoded:
            for index, one in wanted:
                yield index, _rescaled(_next(decoded, one), one)


def stored_frames(
    archive: Archive, image: DicomObject, frames: Sequence[int], limits: VolumeLimits
) -> Generator[NDArray[np.generic], None, None]:
    """The ``frames`` (from 0, ascending) of a checked image, each (row, column) in the type of its stored values.

    One is in memory at a time, and what is compressed goes through a file that is deleted.
    """
    pixels = image.pixels
    assert pixels is not None
    with archive.member(image.member) as stream:
        source: Readable = stream
        if pixels.deflated_from is not None:
            skip(stream, pixels.deflated_from)
            source = Inflating(stream)
        skip(source, pixels.at)
        if pixels.is_encapsulated:
            yield from _decoded(source, image, frames, min(pixels.found_bytes, limits.decompressed_bytes))
        else:
            yield from _native(source, image, frames)


def _native(source: Readable, image: DicomObject, frames: Sequence[int]) -> Iterator[NDArray[np.generic]]:
    dataset, pixels = image.dataset, image.pixels
    assert pixels is not None
    dtype = _dtype(dataset, "an image")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    frame_bytes = rows * columns * dtype.itemsize
    in_file = dtype.newbyteorder("<" if image.encoding.little else ">")
    if dtype.itemsize == 1 and not image.encoding.little and pixels.vr in (None, "OW"):
        source = _SwappedPairs(source)
    at = 0
    for frame in frames:
        skip(source, frame * frame_bytes - at)
        at = (frame + 1) * frame_bytes
        stored = np.frombuffer(read_exactly(source, frame_bytes), in_file)
        yield _without_unused_bits(stored.astype(dtype), int(dataset.BitsStored)).reshape(rows, columns)


def _without_unused_bits(stored: NDArray[np.generic], bits: int) -> NDArray[np.generic]:
    """Anything may lie above the bits that are stored (PS3.5 section 8.1.1), and compression keeps it there."""
    unused = max(0, 8 * stored.itemsize - bits)
    shifted: NDArray[np.generic] = np.right_shift(np.left_shift(stored, unused), unused)
    return shifted


class _SwappedPairs:
    """``source`` with the bytes of each pair swapped: 8-bit pixels in words of the big-endian syntax."""

    def __init__(self, source: Readable) -> None:
        self._source, self._ahead = source, b""

    def read(self, size: int, /) -> bytes:
        while len(self._ahead) < size:
            pairs = read_exactly(self._source, PIECE_BYTES)
            if not pairs:
                break
            self._ahead += np.frombuffer(pairs + b"\0" * (len(pairs) % 2), "u2").byteswap().tobytes()
        piece, self._ahead = self._ahead[:size], self._ahead[size:]
        return piece


def _decoded(
    source: Readable, image: DicomObject, frames: Sequence[int], max_bytes: int
) -> Iterator[NDArray[np.generic]]:
    jpeg.register()
    syntax = image.stated_syntax
    assert syntax is not None
    options = as_pixel_options(
        image.dataset, transfer_syntax_uid=syntax, pixel_keyword="PixelData", photometric_interpretation=_GREY[-1]
    )
    with SpooledTemporaryFile(_IN_MEMORY_BYTES) as copy:
        left = max_bytes
        if whole(image.dataset, "NumberOfFrames", "an image", 1) == 1:
            left -= _without_offsets(source, copy)
            options.pop("extended_offsets", None)
        while left and (piece := source.read(min(left, PIECE_BYTES))):
            copy.write(piece)
            left -= len(piece)
        copy.seek(0)
        decoder = get_decoder(syntax)
        for pixels, _ in decoder.iter_array(
            cast(BinaryIO, copy), indices=frames, raw=True, decoding_plugin=_PLUGINS[syntax], **options
        ):
            yield _without_unused_bits(pixels, int(image.dataset.BitsStored))


def _without_offsets(source: Readable, copy: IO[bytes]) -> int:
    """Replace the offset table by an empty one; returns how many bytes of ``source`` that took.

    A single frame is all of the fragments (PS3.5 section A.4), so a wrong table does no harm.
    """
    head = read_exactly(source, 8)
    copy.write(head[:4] + bytes(4))
    return len(head) + skip(source, int.from_bytes(head[4:], "little"))


def _next(decoded: Iterator[NDArray[np.generic]], one: Slice) -> NDArray[np.generic]:
    try:
        return next(decoded)
    except (*BROKEN, StopIteration) as error:
        raise NotAVolume(f"{one.name} cannot be decoded: its pixel data is truncated or damaged") from error


def _rescaled(stored: NDArray[np.generic], one: Slice) -> NDArray[np.float32]:
    """In float64 where there is a rescale, so that nothing is lost before the final rounding."""
    if (one.slope, one.inter) == (1.0, 0.0):
        return stored.astype(np.float32)
    return (stored.astype(np.float64) * one.slope + one.inter).astype(np.float32)


def _check_grey(dataset: Dataset, name: str) -> None:
    samples = whole(dataset, "SamplesPerPixel", name, 1)
    photometric = "\\".join(texts(dataset, "PhotometricInterpretation")).upper()
    if samples != 1 or photometric not in ("", *_GREY):
        raise NotAVolume(
            f"{name} has colours ({samples} samples a pixel); grey images are needed, {' or '.join(_GREY)}",
            samples_per_pixel=samples,
        )
    if "ModalityLUTSequence" in dataset:
        raise NotAVolume(f"{name} maps its values by a table (Modality LUT); a linear rescale is needed")


def _dtype(dataset: Dataset, name: str) -> np.dtype[np.generic]:
    allocated, stored = whole(dataset, "BitsAllocated", name), whole(dataset, "BitsStored", name)
    high, signed = whole(dataset, "HighBit", name, stored - 1), whole(dataset, "PixelRepresentation", name)
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or high != stored - 1 or signed not in (0, 1):
        raise NotAVolume(
            f"{name} has {allocated} bits allocated, {stored} stored, high bit {high}, pixel representation {signed}; "
            "readable are 8, 16 or 32 allocated bits whose lowest hold the value"
        )
    return np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")


def _check_compression(syntax: uids.UID | None, name: str) -> None:
    if syntax is None or syntax in NATIVE:
        raise NotAVolume(
            f"the pixel data of {name} is compressed, but its meta information states none ({_named(syntax)}); "
            "state the transfer syntax that it is in"
        )
    if syntax not in _PLUGINS:
        raise NotAVolume(f"{name} is compressed by a method that cannot be read: {_named(syntax)}")


def _named(syntax: uids.UID | None) -> str:
    if syntax is None:
        return "no transfer syntax"
    return syntax.name if syntax.name != syntax else "an unknown transfer syntax"


def _check_length(dataset: Dataset, pixels: PixelElement, name: str, dtype: np.dtype[np.generic]) -> None:
    """Native pixel data is as long as its description says. Less than a row or a column more cannot come of one wrong
    number of rows, columns, frames or bits, and is padding."""
    columns, rows = whole(dataset, "Columns", name), whole(dataset, "Rows", name)
    frames = whole(dataset, "NumberOfFrames", name, 1)
    if min(columns, rows, frames) < 1:
        raise NotAVolume(f"{name} has {columns} columns, {rows} rows and {frames} frames")
    if pixels.stated_bytes is None:
        return
    needed = columns * rows * frames * dtype.itemsize
    found = min(pixels.stated_bytes, pixels.found_bytes)
    described = f"{columns} x {rows} pixels of {8 * dtype.itemsize} bits, {frames} times"
    if found < needed:
        raise NotAVolume(
            f"truncated: {name} needs {needed} bytes of pixel data, found {found} ({described})",
            expected_bytes=needed,
            found_bytes=found,
        )
    if pixels.stated_bytes - needed >= max(2, min(columns, rows) * dtype.itemsize):
        raise NotAVolume(
            f"{name} has {pixels.stated_bytes} bytes of pixel data and describes {needed} of them ({described}); rows, "
            "columns, frames or bits are not what is stored",
            expected_bytes=needed,
            found_bytes=pixels.stated_bytes,
        )
