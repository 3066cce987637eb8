"""DICOM objects: headers without pixel data, and what is known of their pixel data.

``read_object`` is the one bounded reader for every way in: uploads, STOW-RS, C-STORE, series that are pulled. What the
bytes show counts, not what the meta information states: the encoding is found from the first elements of the data set.
"""

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from unet_factory.domain.errors import FactoryError, NotAVolume, VolumeTooLarge
from unet_factory.domain.volume_limits import DEFAULT_LIMITS, VolumeLimits
from unet_factory.volume.archive import Readable
from unet_factory.volume.dicom.streams import HeaderStream, Inflating, Rest, skip
from unet_factory.volume.dicom_start import HEAD_BYTES, Encoding, data_set_start, first_group, found_encoding

PIXEL_DATA = 0x7FE00010
UNDEFINED_LENGTH = 0xFFFFFFFF
_ALL_PIXEL_DATA = frozenset((0x7FE00008, 0x7FE00009, PIXEL_DATA))  # float, double, integer
_PADDING_GROUP = 0xFFFC0000  # what lies behind holds no more of the header
_META_GROUP = 0x0002
_MAX_TRAILING_BYTES = 64 * 2**20  # after the pixel data: private elements, signatures, padding
_ENCAPSULATION_BYTES = 4096  # for each frame: offsets, item tags, and headers of code streams
_MODALITIES = frozenset(
    "CT MR PT NM US XA RF CR DX MG OT SC SEG SR PR KO RTSTRUCT RTDOSE RTPLAN RTIMAGE REG FID DOC RWV M3D SM OPT".split()  # noqa: SIM905
)
BROKEN = (  # what pydicom raises for damaged headers and pixel data
    *(InvalidDicomError, ValueError, LookupError, TypeError, AttributeError, EOFError, NameError, ArithmeticError),
    *(BytesLengthException, MemoryError, struct.error, zlib.error, RuntimeError, AssertionError),
)

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)

# pydicom quotes faulty values, which may be a patient's, in its warnings and in its log
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module="pydicom")


@dataclass(frozen=True)
class PixelElement:
    """``tag``, and ``stated_bytes`` (None: encapsulated) of the ``found_bytes`` that the object still has for it.

    The value begins ``at`` bytes after the start of the file or, where the object is deflated, after the start of what
    inflates from the byte ``deflated_from`` of the file. ``vr`` is None where implicit.
    """

    tag: int
    vr: str | None
    stated_bytes: int | None
    found_bytes: int
    at: int
    deflated_from: int | None

    @property
    def is_encapsulated(self) -> bool:
        return self.stated_bytes is None


@dataclass(frozen=True, eq=False)
class DicomObject:
    """The ``member`` of the archive, its header, its pixel data where it has any, and the encoding it was found in."""

    member: int
    dataset: FileDataset
    pixels: PixelElement | None
    encoding: Encoding

    @property
    def stated_syntax(self) -> UID | None:
        """The transfer syntax that the meta information states, if any."""
        stated = self.dataset.file_meta.get("TransferSyntaxUID")
        return UID(str(stated)) if stated else None

    @property
    def is_as_stated(self) -> bool:
        """Whether the object is encoded as its meta information states."""
        stated, pixels = self.stated_syntax, self.pixels
        if stated is None or pixels is None:
            return True
        is_deflated = pixels.deflated_from is not None
        return (
            is_deflated == (stated == DeflatedExplicitVRLittleEndian)
            and self.encoding == _stated_encoding(stated)
            and pixels.is_encapsulated == (stated not in NATIVE)
        )

    @property
    def sop_class(self) -> UID:
        stated = self.dataset.get("SOPClassUID") or self.dataset.file_meta.get("MediaStorageSOPClassUID")
        return UID(str(stated or ""))

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


def read_object(stream: Readable, limits: VolumeLimits = DEFAULT_LIMITS, *, member: int = 0) -> DicomObject:
    """The DICOM object in ``stream``, with or without preamble and meta information, less its pixel data.

    The memory it takes is bounded by ``limits``, whatever the object inflates to; the pixel data is counted, not kept,
    and to no more than the header says is needed. ``unet_factory.domain.uids.read_uid`` reads the UIDs of ``dataset``.

    Raises:
        NotAVolume: damaged, or truncated so that a deflated object or a zip member ends early.
        VolumeTooLarge: a header beyond ``limits``, or much more data than the image needs.
    """
    with readable("a DICOM object"):
        return _read(stream, limits, member)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raise NotAVolume where pydicom stumbles over the header of the object ``name``: it decodes values late."""
    try:
        yield
    except (*BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's, not pydicom's
        if isinstance(error.__context__, FactoryError):
            raise error.__context__ from None  # the stream's, which pydicom covers inside a sequence
        raise NotAVolume(f"{name} is damaged: its header cannot be read") from error


def _read(stream: Readable, limits: VolumeLimits, member: int) -> DicomObject:
    plain = HeaderStream(stream, limits)
    plain.seek(data_set_start(plain.read(HEAD_BYTES)))
    meta = _file_meta(plain)
    stated = meta.get("TransferSyntaxUID")
    header, deflated_from = plain, None
    encoding = _peeked(plain)
    if encoding is None and (stated == DeflatedExplicitVRLittleEndian or _inflates(plain)):
        deflated_from = plain.tell()
        header = HeaderStream(Inflating(plain.rest()), limits)
        encoding = _peeked(header)
    encoding = encoding or _stated_encoding(stated)
    dataset, element = _header(header, encoding)
    found = FileDataset(None, dataset, None, meta, encoding.implicit, encoding.little)  # type: ignore[arg-type]
    pixels = None
    if element is not None:
        tag, vr, length, at = element
        header.seek(at)
        is_file = deflated_from is None and isinstance(stream, io.IOBase) and stream.seekable()
        counted = _file_bytes(stream) - at if is_file else _counted(header.rest(), _needed(found, length), limits)
        stated_bytes = None if length == UNDEFINED_LENGTH else length
        pixels = PixelElement(tag, vr, stated_bytes, counted, at, deflated_from)
    return DicomObject(member, found, pixels, encoding)


def _file_meta(stream: HeaderStream) -> FileMetaDataset:
    """The group 0002, empty if the file has none; ``stream`` is left behind it."""
    at = stream.tell()
    head = stream.read(HEAD_BYTES)
    stream.seek(at)
    encoding = found_encoding(head) or Encoding(implicit=False, little=True)
    if len(head) < 2 or first_group(head, encoding) != _META_GROUP:
        return FileMetaDataset()
    dataset = read_dataset(stream, *encoding, stop_when=lambda tag, _vr, _length: tag >> 16 != _META_GROUP)  # type: ignore[arg-type]
    return FileMetaDataset(dataset)


def _peeked(stream: HeaderStream) -> Encoding | None:
    at = stream.tell()
    head = stream.read(HEAD_BYTES)
    stream.seek(at)
    return found_encoding(head)


def _inflates(stream: HeaderStream) -> bool:
    """Whether the data set is deflated though its meta information does not say so."""
    at = stream.tell()
    head = stream.read(HEAD_BYTES)
    stream.seek(at)
    try:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, HEAD_BYTES)
    except zlib.error:
        return False
    return found_encoding(inflated) is not None


def _stated_encoding(syntax: str | None) -> Encoding:
    """Of a data set without a syntax: the default one (PS3.5 section 10.1)."""
    return Encoding(syntax in (None, ImplicitVRLittleEndian), syntax != ExplicitVRBigEndian)


def _header(stream: HeaderStream, encoding: Encoding) -> tuple[Dataset, tuple[int, str | None, int, int] | None]:
    """All before the pixel data, and its tag, VR, stated length, and where its value begins."""
    found: list[tuple[int, str | None, int, int]] = []

    def at_pixel_data(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in _ALL_PIXEL_DATA:
            found.append((int(tag), vr, length, stream.tell()))
        return bool(found) or tag >= _PADDING_GROUP

    dataset = read_dataset(stream, *encoding, stop_when=at_pixel_data)  # type: ignore[arg-type]
    return dataset, found[0] if found else None


def _file_bytes(stream: Readable) -> int:
    assert isinstance(stream, io.IOBase)
    return stream.seek(0, io.SEEK_END)


def _counted(rest: Rest, needed: int, limits: VolumeLimits) -> int:
    """How many bytes there are, none of them kept."""
    allowed = min(needed + _MAX_TRAILING_BYTES, limits.decompressed_bytes)
    found = skip(rest, allowed + 1)
    if found > allowed:
        raise VolumeTooLarge(
            f"a DICOM object inflates to more than {allowed} bytes behind its header; its image needs {needed}",
            allowed=allowed,
        )
    return found


def _needed(dataset: Dataset, length: int) -> int:
    """The bytes of pixel data that the image has by its header; 0 where this does not say."""
    try:
        columns, rows, frames = int(dataset.Columns), int(dataset.Rows), int(dataset.get("NumberOfFrames") or 1)
        bits = int(dataset.BitsAllocated) * int(dataset.get("SamplesPerPixel") or 1)
    except BROKEN:
        return 0
    native = max(0, columns * rows * frames * bits // 8)
    return native if length != UNDEFINED_LENGTH else 2 * native + max(0, frames) * _ENCAPSULATION_BYTES
