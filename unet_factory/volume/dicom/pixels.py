"""Pixel data: judged from the header, decoded by pydicom's plugins frame by frame, straight into the volume."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import BinaryIO

import numpy as np
import pydicom.uid as uids
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels

from unet_factory.domain.errors import NotAVolume
from unet_factory.volume.archive import Archive
from unet_factory.volume.dicom import jpeg
from unet_factory.volume.dicom.objects import BROKEN, PIXEL_DATA, DicomObject, inflated, readable, transfer_syntax
from unet_factory.volume.dicom.slices import Slice
from unet_factory.volume.limits import VolumeLimits

# which plugin decodes what: fixed, so that the same file gives the same voxels wherever more of them are installed
_PLUGINS: dict[uids.UID, str] = {
    **dict.fromkeys((uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian), ""),
    uids.DeflatedExplicitVRLittleEndian: "",
    uids.RLELossless: "pydicom",  # pylibjpeg-rle panics on damaged data, which no handler of errors catches
    **dict.fromkeys(jpeg.SYNTAXES, jpeg.PLUGIN),
    **dict.fromkeys((uids.JPEGLSLossless, uids.JPEGLSNearLossless), "pyjpegls"),
    **dict.fromkeys((uids.JPEG2000Lossless, uids.JPEG2000), "pylibjpeg"),
    **dict.fromkeys((uids.HTJ2KLossless, uids.HTJ2KLosslessRPCL, uids.HTJ2K), "pylibjpeg"),
}
_GREY = ("MONOCHROME1", "MONOCHROME2")


def check_pixels(image: DicomObject, name: str) -> np.dtype[np.generic]:
    """The type of the stored values of an image, which is grey, readable and complete as far as its header can tell.

    Raises:
        NotAVolume: colours, an unknown compression, bits that cannot be, or truncated pixel data.
    """
    dataset = image.dataset
    with readable(name):
        _check_grey(dataset, name)
        dtype = _dtype(dataset, name)
        syntax = transfer_syntax(dataset)
        if syntax not in _PLUGINS:
            raise NotAVolume(f"{name} is compressed by a method that cannot be read: {syntax.name}")
        _check_complete(image, name, dtype, encapsulated=syntax.is_compressed and not syntax.is_deflated)
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
        wanted = [(index, one) for index, one in enumerate(slices) if one.source.member == member]
        with archive.member(member) as stream, inflated(stream, limits.decompressed_bytes) as plain:
            syntax = transfer_syntax(source.dataset)
            syntax = uids.ExplicitVRLittleEndian if syntax.is_deflated else syntax
            frames = [one.frame - 1 for _, one in wanted]
            with closing(_decoded(plain, frames, syntax)) as decoded:
                for index, one in wanted:
                    yield index, _rescaled(_next(decoded, one), one)


def _decoded(stream: BinaryIO, frames: list[int], syntax: uids.UID) -> Generator[NDArray[np.generic], None, None]:
    """Frames (from 0), each (row, column), one in memory at a time."""
    jpeg.register()
    yield from iter_pixels(
        stream, indices=frames, raw=True, decoding_plugin=_PLUGINS[syntax], transfer_syntax_uid=syntax
    )


def _next(decoded: Iterator[NDArray[np.generic]], one: Slice) -> NDArray[np.generic]:
    try:
        return next(decoded)
    except (*BROKEN, RuntimeError, StopIteration) as error:
        raise NotAVolume(f"{one.name} cannot be decoded: its pixel data is truncated or damaged") from error


def _rescaled(stored: NDArray[np.generic], one: Slice) -> NDArray[np.float32]:
    """In float64 where there is a rescale, so that nothing is lost before the final rounding."""
    if (one.slope, one.inter) == (1.0, 0.0):
        return stored.astype(np.float32)
    return (stored.astype(np.float64) * one.slope + one.inter).astype(np.float32)


def _check_grey(dataset: Dataset, name: str) -> None:
    samples, photometric = int(dataset.get("SamplesPerPixel") or 1), str(dataset.get("PhotometricInterpretation", ""))
    if samples != 1 or photometric not in _GREY:
        raise NotAVolume(
            f"{name} has colours ({samples} samples a pixel); grey images are needed, {' or '.join(_GREY)}",
            samples_per_pixel=samples,
        )
    if "ModalityLUTSequence" in dataset:
        raise NotAVolume(f"{name} maps its values by a table (Modality LUT); a linear rescale is needed")


def _dtype(dataset: Dataset, name: str) -> np.dtype[np.generic]:
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high, signed = int(dataset.get("HighBit", stored - 1)), int(dataset.PixelRepresentation)
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or high != stored - 1 or signed not in (0, 1):
        raise NotAVolume(
            f"{name} has {allocated} bits allocated, {stored} stored, high bit {high}, pixel representation {signed}; "
            "readable are 8, 16 or 32 allocated bits whose lowest hold the value"
        )
    return np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")


def _check_complete(image: DicomObject, name: str, dtype: np.dtype[np.generic], *, encapsulated: bool) -> None:
    dataset, pixels = image.dataset, image.pixels
    columns, rows, frames = int(dataset.Columns), int(dataset.Rows), int(dataset.get("NumberOfFrames") or 1)
    if pixels is None or pixels.tag != PIXEL_DATA:
        raise NotAVolume(f"truncated: {name} has no pixel data of whole numbers")
    if min(columns, rows, frames) < 1:
        raise NotAVolume(f"{name} has {columns} columns, {rows} rows and {frames} frames")
    needed = columns * rows * frames * dtype.itemsize
    if not encapsulated and (pixels.stated_bytes is None or min(pixels.stated_bytes, pixels.found_bytes) < needed):
        found = min(pixels.stated_bytes or 0, pixels.found_bytes)
        raise NotAVolume(
            f"truncated: {name} needs {needed} bytes of pixel data, found {found}",
            expected_bytes=needed,
            found_bytes=found,
        )
