"""The values of a DICOM series: every transfer syntax, type and rescale gives what was put in; damage is refused."""

import shutil
import struct
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.uid as uids
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate, get_frame

from tests.fixtures.dicom_files import as_bytes, as_ct, enhanced, series, zipped
from tests.fixtures.volume_files import affine_ras, phantom
from unet_factory.domain.errors import FactoryError, NotAVolume, VolumeTooLarge
from unet_factory.volume import VolumeLimits, read_header, read_volume

AFFINE = affine_ras(10)
SCAN = np.add.outer(phantom((36, 33, 1), "int64")[..., 0], np.arange(4) * 7)  # JPEG 2000 needs more than a few pixels
VOXELS = {
    "uint8": (SCAN % 256).astype("uint8"),
    "int8": (SCAN % 256 - 128).astype("int8"),
    "uint16": (SCAN * 54).astype("uint16"),
    "int16": (SCAN * 54 - 32768).astype("int16"),
    "int16, 12 bits": (SCAN * 3 - 2000).astype("int16"),
    "uint16, 12 bits": (SCAN * 3).astype("uint16"),
}
NATIVE = (uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian)
PYDICOM_ENCODES = (uids.RLELossless, uids.JPEGLSLossless, uids.JPEG2000Lossless)
DCMTK = {"--encode-lossless": "dcmcjpeg", "--encode-lossless-sv1": "dcmcjpeg", "--encode-extended": "dcmcjpeg"}

Encode = Callable[[Dataset], Dataset]


def native(syntax: str) -> Encode:
    def encode(dataset: Dataset) -> Dataset:
        little_endian = syntax != uids.ExplicitVRBigEndian
        with BytesIO() as file:
            if not little_endian and dataset.BitsAllocated == 16:
                dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
            dataset.file_meta.TransferSyntaxUID = uids.UID(syntax)
            dcmwrite(file, dataset, enforce_file_format=True)
            return dcmread(BytesIO(file.getvalue()))

    return encode


def compressed(syntax: str) -> Encode:
    def encode(dataset: Dataset) -> Dataset:
        dataset.compress(syntax, generate_instance_uid=False)
        return dataset

    return encode


def by_dcmtk(option: str) -> Encode:
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("needs dcmtk")

    def encode(dataset: Dataset) -> FileDataset:
        command = ["dcmcjpeg", option, "--uid-never", "-", "-"]
        return dcmread(
            BytesIO(subprocess.run(command, input=as_bytes(dataset), capture_output=True, check=True).stdout)
        )

    return encode


ENCODERS: dict[str, Callable[[], Encode]] = {
    **{uids.UID(syntax).name: lambda syntax=syntax: native(syntax) for syntax in NATIVE},  # type: ignore[misc]
    "deflated": lambda: native(uids.DeflatedExplicitVRLittleEndian),
    **{uids.UID(syntax).name: lambda syntax=syntax: compressed(syntax) for syntax in PYDICOM_ENCODES},  # type: ignore[misc]
    "JPEG lossless": lambda: by_dcmtk("--encode-lossless"),
    "JPEG lossless SV1": lambda: by_dcmtk("--encode-lossless-sv1"),
}


@pytest.mark.parametrize("stored", VOXELS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_lossless_encodings(tmp_path: Path, encoder: str, stored: str) -> None:
    voxels, encode = VOXELS[stored], ENCODERS[encoder]()
    bits = {"BitsStored": 12, "HighBit": 11} if "12" in stored else {}
    slices = [encode(one) for one in series(voxels, AFFINE, **bits)]
    path = zipped(slices, tmp_path / "a.zip")
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, voxels)
    assert read_header(path).dtype == stored.partition(",")[0]


@pytest.mark.parametrize(("option", "bits"), [("--encode-baseline", 8), ("--encode-extended", 12)])
def test_lossy_jpeg(tmp_path: Path, option: str, bits: int) -> None:
    ramp = np.add.outer(np.add.outer(np.arange(32), np.arange(24)), np.arange(4)) * (4 if bits == 8 else 60)
    voxels = ramp.astype(f"uint{8 if bits == 8 else 16}")
    encode = by_dcmtk(option)
    slices = [encode(one) for one in series(voxels, AFFINE, BitsStored=bits, HighBit=bits - 1)]
    np.testing.assert_allclose(read_volume(zipped(slices, tmp_path / "a.zip")).data, voxels, atol=voxels.max() * 0.1)


@pytest.mark.parametrize("encoder", [*ENCODERS])
def test_enhanced_multi_frame_in_every_encoding(tmp_path: Path, encoder: str) -> None:
    dataset = ENCODERS[encoder]()(enhanced(SCAN.astype("int16"), AFFINE, [3, 1, 0, 2]))
    path = tmp_path / "scan"
    path.write_bytes(as_bytes(dataset))
    np.testing.assert_array_equal(read_volume(path).data, SCAN)


@pytest.mark.parametrize("stored", ["uint16, 12 bits", "int16, 12 bits"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_bits_beyond_those_stored_do_not_count(tmp_path: Path, encoder: str, stored: str) -> None:
    """Old overlays are there, and a lossless compression of the whole words keeps them."""
    voxels, encode = VOXELS[stored], ENCODERS[encoder]()
    overlay = np.random.default_rng(0).integers(0, 16, voxels.shape, "uint16") << 12
    with_overlay = (voxels.view("uint16") & 0x0FFF | overlay).view(voxels.dtype)
    slices = [encode(one) for one in series(with_overlay, AFFINE)]
    for one in slices:
        one.BitsStored, one.HighBit = 12, 11
    np.testing.assert_array_equal(read_volume(zipped(slices, tmp_path / "a.zip")).data, voxels)


@pytest.mark.parametrize("encoder", ["Explicit VR Little Endian", "JPEG 2000 Image Compression (Lossless Only)"])
def test_one_sample_a_pixel_without_photometric_interpretation_is_grey(tmp_path: Path, encoder: str) -> None:
    slices = [ENCODERS[encoder]()(one) for one in series(SCAN.astype("int16"), AFFINE)]
    del slices[1].PhotometricInterpretation
    slices[2].PhotometricInterpretation = "monochrome2"
    volume = read_volume(zipped(slices, tmp_path / "a.zip"))
    np.testing.assert_array_equal(volume.data, SCAN)
    assert volume.header.notes == ("1 image without a PhotometricInterpretation; values taken as stored",)


@pytest.mark.parametrize("encoder", [*ENCODERS][len(NATIVE) + 1 :])
@pytest.mark.parametrize("offsets", [(0, 40), (12,), (0, 0, 2**32 - 1)])
def test_a_wrong_table_of_offsets_does_not_matter_to_a_single_frame(
    tmp_path: Path, encoder: str, offsets: tuple[int, ...]
) -> None:
    slices = [ENCODERS[encoder]()(one) for one in series(SCAN.astype("int16"), AFFINE)]
    for one in slices:
        fragments = get_frame(one.PixelData, 0, number_of_frames=1)
        halves = fragments[:64], fragments[64:]
        items = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(half)) + half for half in halves)
        table = struct.pack(f"<4s{1 + len(offsets)}I", b"\xfe\xff\x00\xe0", 4 * len(offsets), *offsets)
        one.PixelData = table + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
        one["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(read_volume(zipped(slices, tmp_path / "a.zip")).data, SCAN)


@pytest.mark.parametrize("padding", [b"", b"\0", b"\xff", b"\n", b"    "])
def test_jpeg_may_be_followed_by_padding(tmp_path: Path, padding: bytes) -> None:
    slices = [ENCODERS["JPEG lossless SV1"]()(one) for one in series(SCAN.astype("int16"), AFFINE)]
    for one in slices:
        frame = get_frame(one.PixelData, 0, number_of_frames=1).rstrip(b"\0") + padding
        one.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2)])
        one["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(read_volume(zipped(slices, tmp_path / "a.zip")).data, SCAN)


def test_the_rescale_of_each_slice_counts(tmp_path: Path) -> None:
    slices = series(phantom(), AFFINE)
    for k, one in enumerate(slices):
        one.RescaleSlope, one.RescaleIntercept = 0.5 + k, -1024
    expected = phantom() * (0.5 + np.arange(7)) - 1024
    np.testing.assert_array_equal(
        read_volume(zipped(slices[::-1], tmp_path / "a.zip")).data, expected.astype(np.float32)
    )


def test_the_rescale_of_each_frame_counts(tmp_path: Path) -> None:
    dataset = enhanced(phantom(), AFFINE)
    for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        transformation = Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = 2 + k, 10
        frame.PixelValueTransformationSequence = [transformation]
    np.testing.assert_array_equal(
        read_volume(zipped([dataset], tmp_path / "a.zip")).data, phantom() * (2 + np.arange(7)) + 10
    )


@pytest.mark.parametrize("syntax", [uids.ExplicitVRLittleEndian, uids.ImplicitVRLittleEndian])
@pytest.mark.parametrize(("padding", "noted"), [(-32768, True), (-200, False), (32767, True)])
def test_padding_far_from_all_values_is_replaced(tmp_path: Path, padding: int, noted: bool, syntax: str) -> None:
    voxels = phantom()
    voxels[:2] = padding
    slices = [native(syntax)(one) for one in as_ct(series(voxels, AFFINE, PixelPaddingValue=padding))]
    volume = read_volume(zipped(slices, tmp_path / "a.zip"))
    lowest = phantom()[2:].min()
    np.testing.assert_array_equal(volume.data[2:], phantom()[2:])
    assert (volume.data[:2] == (lowest if noted else padding)).all()
    assert [f"84 voxels of padding, value {padding}" in note for note in volume.header.notes] == [True] * noted


def shortened(dataset: Dataset) -> Dataset:
    dataset.PixelData = dataset.PixelData[:-6]
    return dataset


def set_to(**attributes: Any) -> Encode:
    def change(dataset: Dataset) -> Dataset:
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        return dataset

    return change


def without_pixels(dataset: Dataset) -> Dataset:
    del dataset.PixelData
    return dataset


def in_syntax(syntax: str) -> Encode:
    def change(dataset: Dataset) -> Dataset:
        encoded = compressed(uids.RLELossless)(dataset)
        encoded.file_meta.TransferSyntaxUID = uids.UID(syntax)
        return encoded

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (shortened, "truncated: image 3 needs 60 bytes of pixel data, found 54"),
        (without_pixels, "truncated: image 3 has no pixel data"),
        (set_to(BitsAllocated=12, BitsStored=12, HighBit=11), "12 bits allocated"),
        (set_to(HighBit=14), "high bit 14"),
        (set_to(BitsStored=17), "17 stored"),
        (set_to(BitsStored=None), "damaged"),
        (set_to(Rows=0), "0 rows"),
        (set_to(RescaleSlope=0), "RescaleSlope 0"),
        (set_to(ModalityLUTSequence=[Dataset()]), "Modality LUT"),
        (in_syntax(uids.MPEG2MPML), "MPEG2"),
        (in_syntax(uids.MPEG4HP41), "MPEG-4"),
    ],
)
def test_pixels_that_cannot_be_read_are_found_in_the_header(tmp_path: Path, change: Encode, named: str) -> None:
    slices = series(phantom(), AFFINE)
    slices[2] = change(slices[2])
    with pytest.raises(NotAVolume, match=named):
        read_header(zipped(slices, tmp_path / "a.zip"))


@pytest.mark.parametrize(
    "encoder",
    [
        "RLE Lossless",
        "JPEG-LS Lossless Image Compression",
        "JPEG 2000 Image Compression (Lossless Only)",
        "JPEG lossless",
    ],
)
def test_damaged_compressed_pixels_are_refused_when_decoded(tmp_path: Path, encoder: str) -> None:
    slices = [ENCODERS[encoder]()(one) for one in series(SCAN.astype("int16"), AFFINE)]
    damaged = bytearray(slices[2].PixelData)
    damaged[30:] = b"\0" * (len(damaged) - 30)
    slices[2].PixelData = bytes(damaged)
    slices[2]["PixelData"].is_undefined_length = True
    path = zipped(slices, tmp_path / "a.zip")
    with pytest.raises(NotAVolume, match="image 3 cannot be decoded"):
        read_volume(path)


def test_frames_of_another_size_than_stated_are_refused(tmp_path: Path) -> None:
    slices = [compressed(uids.JPEG2000Lossless)(one) for one in series(SCAN.astype("int16"), AFFINE)]
    for one in slices:
        one.Rows = one.Columns = 10
    with pytest.raises(NotAVolume, match="cannot be decoded"):
        read_volume(zipped(slices, tmp_path / "a.zip"))


def test_a_deflated_bomb_is_stopped(tmp_path: Path) -> None:
    (one,) = series(phantom()[:, :, :1], AFFINE)
    one.PixelData = bytes(50_000_000)
    path = tmp_path / "scan"
    path.write_bytes(as_bytes(native(uids.DeflatedExplicitVRLittleEndian)(one)))
    assert path.stat().st_size < 60_000
    with pytest.raises(VolumeTooLarge, match="inflates to more than 1000000"):
        read_header(path, limits=VolumeLimits(decompressed_bytes=1_000_000))


def test_objects_without_preamble_are_read(tmp_path: Path) -> None:
    content = {}
    for k, one in enumerate(series(phantom(), AFFINE)):
        with BytesIO() as file:
            del one.file_meta
            dcmwrite(file, one, implicit_vr=True, little_endian=True, enforce_file_format=False)
            content[str(k)] = file.getvalue()
    assert not any(b"DICM" in file for file in content.values())
    np.testing.assert_array_equal(read_volume(zipped([], tmp_path / "a.zip", content)).data, phantom())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("encoder", ENCODERS)
def test_no_damage_gets_past_as_anything_else(tmp_path: Path, encoder: str) -> None:
    """Files with some bytes changed or the end cut off: each is read, or refused with one of our own errors."""
    random = np.random.default_rng(0)
    sound = as_bytes(ENCODERS[encoder]()(enhanced(SCAN.astype("int16")[:, :, :2], AFFINE)))
    path, outcomes = tmp_path / "scan", set[str]()
    for _ in range(40):
        damaged = np.frombuffer(sound, np.uint8).copy()
        damaged[random.integers(132, len(sound), 4)] = random.integers(0, 256, 4)
        path.write_bytes(damaged[: random.integers(200, len(sound)) if random.random() < 0.2 else None].tobytes())
        try:
            outcomes.add(read_volume(path, limits=VolumeLimits(decompressed_bytes=2**24)).header.format)
        except FactoryError as error:
            outcomes.add(error.slug)
    assert "not-a-volume" in outcomes
