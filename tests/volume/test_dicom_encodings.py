"""Objects whose encoding is not what they state, or that state none: read as they are, or refused, never misread."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom.uid as uids
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info

from tests.fixtures.dicom_files import as_bytes, enhanced, saved, series, zipped
from tests.fixtures.volume_files import affine_ras, phantom, write_mha, write_nifti, write_nrrd
from unet_factory.domain.errors import NotAVolume
from unet_factory.volume import read_header, read_volume
from unet_factory.volume.dicom import dicom_files, pack_series
from unet_factory.volume.dicom_start import HEAD_BYTES, Encoding, is_dicom

AFFINE = affine_ras(10)
SCAN = phantom()
ENCODINGS = {
    "explicit": Encoding(implicit=False, little=True),
    "implicit": Encoding(implicit=True, little=True),
    "explicit big": Encoding(implicit=False, little=False),
    "implicit big": Encoding(implicit=True, little=False),
}
STATED = {
    "nothing": None,
    "implicit": uids.ImplicitVRLittleEndian,
    "explicit": uids.ExplicitVRLittleEndian,
    "explicit big": uids.ExplicitVRBigEndian,
    "deflated": uids.DeflatedExplicitVRLittleEndian,
    "JPEG 2000": uids.JPEG2000Lossless,
    "RLE": uids.RLELossless,
    "a private syntax": uids.UID("1.2.840.113619.5.2"),
}
FORMS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "whole": lambda meta, data_set: bytes(128) + b"DICM" + meta + data_set,
    "no preamble": lambda meta, data_set: meta + data_set,
    "prefix alone": lambda meta, data_set: b"DICM" + meta + data_set,
}
MACOS_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(4072)


def data_set(dataset: Dataset, encoding: Encoding) -> bytes:
    """The bare data set, its 16-bit pixels in the byte order of the encoding."""
    bare = Dataset(dataset)
    if not encoding.little:
        bare.PixelData = np.frombuffer(bare.PixelData, "<u2").byteswap().tobytes()
    bare["PixelData"].VR = "OW"
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = encoding
    write_dataset(file, bare)
    return file.getvalue()


def meta(stated: uids.UID | None) -> bytes:
    if stated is None:
        return b""
    made = FileMetaDataset()
    made.MediaStorageSOPClassUID, made.TransferSyntaxUID = uids.MRImageStorage, stated
    file = DicomBytesIO()
    write_file_meta_info(file, made, enforce_standard=False)
    return file.getvalue()


def deflated(content: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(content) + encoder.flush()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stated", STATED)
@pytest.mark.parametrize("found", ENCODINGS)
def test_the_encoding_that_is_found_counts(tmp_path: Path, found: str, stated: str, form: str) -> None:
    """Single-frame and enhanced objects alike, in every form of file, whatever the meta information states."""
    wrap, uid = FORMS[form], STATED[stated]
    slices = {str(k): wrap(meta(uid), data_set(one, ENCODINGS[found])) for k, one in enumerate(series(SCAN, AFFINE))}
    volume = read_volume(zipped([], tmp_path / "a.zip", slices))
    np.testing.assert_array_equal(volume.data, SCAN)
    assert not any("other than DICOM" in note for note in volume.header.notes)
    bare = tmp_path / "scan"
    bare.write_bytes(wrap(meta(uid), data_set(enhanced(SCAN, AFFINE), ENCODINGS[found])))
    np.testing.assert_array_equal(read_volume(bare).data, SCAN)


@pytest.mark.parametrize("stated", STATED)
def test_deflated_data_is_known_as_such(tmp_path: Path, stated: str) -> None:
    content = (
        bytes(128) + b"DICM" + meta(STATED[stated]) + deflated(data_set(enhanced(SCAN, AFFINE), ENCODINGS["explicit"]))
    )
    (tmp_path / "scan").write_bytes(content)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").data, SCAN)


def test_a_contradiction_is_noted(tmp_path: Path) -> None:
    sound = {str(k): as_bytes(one) for k, one in enumerate(series(SCAN, AFFINE))}
    odd = {
        name: content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0") for name, content in sound.items()
    }
    assert read_header(zipped([], tmp_path / "a.zip", sound)).notes == ()
    (note,) = read_header(zipped([], tmp_path / "b.zip", odd)).notes
    assert note.startswith("7 images are not encoded as their meta information states")


def compressed_as(stated: uids.UID | None) -> bytes:
    (one,) = series(SCAN[:, :, :1], AFFINE)
    one.compress(uids.RLELossless, generate_instance_uid=False)
    one.file_meta.TransferSyntaxUID = uids.RLELossless
    whole = as_bytes(one)
    return bytes(128) + b"DICM" + meta(stated) + whole[whole.index(b"\x08\0\x08\0CS") :]


@pytest.mark.parametrize("stated", ["nothing", "implicit", "explicit", "explicit big", "deflated"])
def test_compressed_pixels_that_are_stated_to_be_native_are_refused(tmp_path: Path, stated: str) -> None:
    (tmp_path / "scan").write_bytes(compressed_as(STATED[stated]))
    with pytest.raises(NotAVolume, match="pixel data of image 1 is compressed, but its meta information states none"):
        read_volume(tmp_path / "scan", spacing_ras_mm=(1, 1, 1))


@pytest.mark.parametrize("stated", ["JPEG 2000"])
def test_another_compression_than_stated_is_refused(tmp_path: Path, stated: str) -> None:
    (tmp_path / "scan").write_bytes(compressed_as(STATED[stated]))
    with pytest.raises(NotAVolume, match="image 1 cannot be decoded"):
        read_volume(tmp_path / "scan", spacing_ras_mm=(1, 1, 1))


@pytest.mark.parametrize(
    "change",
    [{"Columns": 4}, {"Rows": 5}, {"Columns": 3, "Rows": 10}, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}],
)
def test_pixels_of_another_length_than_described_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    slices = series(phantom((6, 6, 7)), AFFINE, **change)
    with pytest.raises(NotAVolume, match=r"image 1 (has|needs) .*72|needs 60"):
        read_header(zipped(slices, tmp_path / "a.zip"))


def test_padding_behind_the_pixels_is_no_pixel(tmp_path: Path) -> None:
    slices = series(SCAN, AFFINE)
    for one in slices:
        one.PixelData += b"\x55" * 8
    np.testing.assert_array_equal(read_volume(zipped(slices, tmp_path / "a.zip")).data, SCAN)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_zeros_for_a_delimiter_never_move_voxels(tmp_path: Path, encoding: str) -> None:
    """Some writers end a sequence of undefined length by zeros. Each one is read as it is, or refused."""
    dataset = enhanced(SCAN, AFFINE)
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        dataset[keyword].is_undefined_length = True
    sound = data_set(dataset, ENCODINGS[encoding])
    delimiter = b"\xfe\xff\xdd\xe0\0\0\0\0" if ENCODINGS[encoding].little else b"\xff\xfe\xe0\xdd\0\0\0\0"
    assert sound.count(delimiter) == 2
    (tmp_path / "scan").write_bytes(sound.replace(delimiter, bytes(8)))
    with pytest.raises(NotAVolume):
        read_volume(tmp_path / "scan")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_folder_of_mixed_files_loses_no_slice(tmp_path: Path, encoding: str) -> None:
    wrapped = [FORMS[form] for form in FORMS]
    folder = tmp_path / "scan"
    folder.mkdir()
    for k, one in enumerate(series(SCAN, AFFINE)):
        stated = meta(STATED["explicit"]) if k % 2 else b""
        (folder / f"{k}.dcm").write_bytes(wrapped[k % 3](stated, data_set(one, ENCODINGS[encoding])))
        (folder / f"._{k}.dcm").write_bytes(MACOS_DOUBLE)
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" + bytes(100))
    (folder / "notes.txt").write_bytes(b"hello")
    found = dicom_files(folder)
    assert [file.name for file in found] == [f"{k}.dcm" for k in range(7)]
    pack_series(found, tmp_path / "a.zip")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.zip").data, SCAN)


def test_what_file_managers_leave_is_not_worth_a_note(tmp_path: Path) -> None:
    debris = {"__MACOSX/study/._0": MACOS_DOUBLE, ".DS_Store": b"\0\0\0\1Bud1" + bytes(100)}
    path = zipped(series(SCAN, AFFINE), tmp_path / "a.zip", debris)
    assert read_header(path).notes == ()
    (tmp_path / "._scan.nii.gz").write_bytes(MACOS_DOUBLE)
    with pytest.raises(NotAVolume, match=r"macOS leaves beside a file \(\._NAME\)"):
        read_header(tmp_path / "._scan.nii.gz")


def test_other_files_are_not_taken_for_dicom(tmp_path: Path) -> None:
    files = [write_nifti(tmp_path / "a.nii"), write_mha(tmp_path / "a.mha"), write_nrrd(tmp_path / "a.nrrd")]
    random = np.random.default_rng(0)
    heads = [file.read_bytes()[:HEAD_BYTES] for file in files]
    heads += [
        b"",
        bytes(1024),
        b"a,b\n" * 256,
        MACOS_DOUBLE,
        b"\x89PNG\r\n\x1a\n" + bytes(500),
        b"\x08\0\x05\0",
        b"\2\0",
    ]
    heads += [random.bytes(HEAD_BYTES) for _ in range(2000)]
    heads += [b"\x08\0\x05\0" + random.bytes(HEAD_BYTES) for _ in range(2000)]
    assert [head for head in heads if is_dicom(head)] == []
    assert all(is_dicom(file.read_bytes()[:HEAD_BYTES]) for file in saved(series(SCAN, AFFINE), tmp_path / "scan"))
