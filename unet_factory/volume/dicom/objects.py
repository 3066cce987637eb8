"""DICOM objects from the members of an archive: headers without pixel data, and what is known of their pixel data."""

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filebase import DicomFileLike
from pydicom.filereader import read_dataset, read_partial, read_preamble
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from unet_factory.domain.errors import NotAVolume, VolumeTooLarge

PIXEL_DATA = 0x7FE00010
UNDEFINED_LENGTH = 0xFFFFFFFF
_ALL_PIXEL_DATA = (0x7FE00008, 0x7FE00009, PIXEL_DATA)  # float, double, integer
_ENDS = (0x7FE00000, 0xFFFC0000)  # what lies behind holds no more of the header
_PREAMBLE_BYTES = 128
_MODALITIES = frozenset(
    "CT MR PT NM US XA RF CR DX MG OT SC SEG SR PR KO RTSTRUCT RTDOSE RTPLAN RTIMAGE REG FID DOC RWV M3D SM OPT".split()  # noqa: SIM905
)
BROKEN = (  # what pydicom raises for damaged headers and pixel data
    *(InvalidDicomError, ValueError, LookupError, TypeError, AttributeError, EOFError, NotImplementedError, NameError),
    *(BytesLengthException, OverflowError, MemoryError, struct.error, RecursionError, zlib.error),
)

# pydicom quotes faulty values, which may be a patient's, in its warnings and in its log
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module="pydicom")


@dataclass(frozen=True)
class PixelElement:
    """``tag``, and ``stated_bytes`` (None: encapsulated) of the ``found_bytes`` that the file still has for it."""

    tag: int
    stated_bytes: int | None
    found_bytes: int


@dataclass(frozen=True, eq=False)
class DicomObject:
    """The ``member`` of the archive, its header, and its pixel data where it has any."""

    member: int
    dataset: FileDataset
    pixels: PixelElement | None

    @property
    def sop_class(self) -> UID:
        meta = getattr(self.dataset, "file_meta", FileMetaDataset())
        return UID(str(self.dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or ""))

    @property
    def modality(self) -> str:
        """A code that is known to be one, since anything may stand in a header."""
        modality = str(self.dataset.get("Modality", ""))
        return modality if modality in _MODALITIES else "other"

    @property
    def is_directory(self) -> bool:
        return self.sop_class == pydicom.uid.MediaStorageDirectoryStorage

    @property
    def is_image(self) -> bool:
        """Whether it is a scan's image, not a segmentation, dose, map, report or presentation of one."""
        name = self.sop_class.name
        if self.modality == "SEG":  # its newer classes have names that pydicom does not know
            return False
        return self.pixels is not None if name == self.sop_class else "Image Storage" in name


def read_object(member: int, stream: BinaryIO, max_bytes: int) -> DicomObject:
    """The object in ``stream`` without its pixel data.

    Raises:
        NotAVolume: damaged.
        VolumeTooLarge: a deflated object inflates to more than ``max_bytes``.
    """
    with readable("a DICOM object"), inflated(stream, max_bytes) as plain:
        return _read_header(member, plain)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raise NotAVolume where pydicom stumbles over the header of the object ``name``: it decodes values late."""
    try:
        yield
    except (*BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's, not pydicom's
        raise NotAVolume(f"{name} is damaged: its header cannot be read") from error


@contextmanager
def inflated(stream: BinaryIO, max_bytes: int) -> Iterator[BinaryIO]:
    """``stream``, or where its data set is deflated the same object in explicit VR little endian.

    pydicom would inflate it too, but without a bound.

    Raises:
        NotAVolume: damaged deflated data.
        VolumeTooLarge: it inflates to more than ``max_bytes``.
    """
    meta = _file_meta(stream)
    if meta is None or meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        stream.seek(0)
        yield stream
        return
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    data = decoder.decompress(stream.read(), max_bytes)
    if decoder.unconsumed_tail:
        raise VolumeTooLarge(f"a deflated DICOM object inflates to more than {max_bytes} bytes", allowed=max_bytes)
    if not decoder.eof:
        raise NotAVolume("truncated: the data of a deflated DICOM object ends early")
    with io.BytesIO() as plain:
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        plain.write(bytes(_PREAMBLE_BYTES) + b"DICM")
        write_file_meta_info(DicomFileLike(plain), meta, enforce_standard=False)
        plain.write(data)
        plain.seek(0)
        yield plain


def transfer_syntax(dataset: Dataset) -> UID:
    """That of the file; where it states none, the one that its data set was found to be in."""
    meta = getattr(dataset, "file_meta", FileMetaDataset())
    stated = meta.get("TransferSyntaxUID")
    if stated:
        return UID(str(stated))
    implicit, little = dataset.original_encoding
    if not little:
        return pydicom.uid.ExplicitVRBigEndian
    return pydicom.uid.ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


def _file_meta(stream: BinaryIO) -> FileMetaDataset | None:
    """The group 0002; the stream is left behind it. None without a preamble, as such files have no such group."""
    stream.seek(0)
    if read_preamble(stream, force=True) is None:
        return None
    return FileMetaDataset(read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2))


def _read_header(member: int, stream: BinaryIO) -> DicomObject:
    found: list[tuple[int, int, int]] = []

    def at_pixel_data(tag: BaseTag, _vr: str | None, length: int) -> bool:
        if tag in _ALL_PIXEL_DATA:
            found.append((int(tag), length, stream.tell()))
        return bool(found) or tag >= _ENDS[1]

    dataset = read_partial(stream, stop_when=at_pixel_data, force=True)
    pixels = None
    if found:
        tag, length, at = found[0]
        stated = None if length == UNDEFINED_LENGTH else length
        pixels = PixelElement(tag, stated, stream.seek(0, io.SEEK_END) - at)
    dataset.buffer = None  # all of the header is in memory, the stream will be closed
    return DicomObject(member, dataset, pixels)
