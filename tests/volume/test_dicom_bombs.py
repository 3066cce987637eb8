"""What a small DICOM upload may cost: memory bounded by what an image needs, nothing unpacked, our own errors only."""

import tempfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom.uid as uids
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.fixtures.dicom_files import as_bytes, enhanced, series, zipped
from tests.fixtures.memory import peak_below
from tests.fixtures.volume_files import affine_ras, phantom
from unet_factory.domain.errors import FactoryError, NotAVolume, VolumeTooLarge
from unet_factory.volume import VolumeLimits, read_header, read_volume
from unet_factory.volume.dicom import read_object

SCAN = phantom()
AFFINE = affine_ras()
MB = 10**6
LIMITS = VolumeLimits(header_items=20_000)  # fewer than by default: pydicom takes its time


def deflated(dataset: Dataset) -> bytes:
    dataset.file_meta.TransferSyntaxUID = uids.DeflatedExplicitVRLittleEndian
    return as_bytes(dataset)


def long_pixels() -> Dataset:
    (one,) = series(SCAN[:, :, :1], AFFINE)
    one.PixelData = bytes(200 * MB)
    return one


def long_tail() -> Dataset:
    (one,) = series(SCAN[:, :, :1], AFFINE)
    one.add_new(0x7FE11001, "OB", bytes(200 * MB))
    return one


def long_header() -> Dataset:
    (one,) = series(SCAN[:, :, :1], AFFINE)
    one.add_new(0x00091001, "OB", bytes(200 * MB))
    return one


def many_items() -> Dataset:
    (one,) = series(SCAN[:, :, :1], AFFINE)
    one.ReferencedImageSequence = Sequence([Dataset() for _ in range(30_000)])
    one["ReferencedImageSequence"].is_undefined_length = True
    return one


BOMBS: dict[str, tuple[Callable[[], Dataset], int, str]] = {
    "pixel data that no frame needs": (long_pixels, 10 * MB, "its image needs 60"),
    "private data behind the pixels": (long_tail, 10 * MB, "its image needs 60"),
    "private data before the pixels": (long_header, 120 * MB, "header of a DICOM object has more than 33554432 bytes"),
    "items of a sequence": (many_items, 30 * MB, "more than 20000 items"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_costs_no_more_than_its_image(tmp_path: Path, bomb: str) -> None:
    """As a deflated object and as the member of a zip archive, for the upload's reader and for a single object's."""
    build, allowed_bytes, named = BOMBS[bomb]
    dataset = build()
    path = zipped([dataset], tmp_path / "a.zip")
    content = deflated(dataset)
    assert max(len(content), path.stat().st_size) < 10 * MB
    (tmp_path / "scan").write_bytes(content)
    del dataset
    for read in (
        lambda: read_object(BytesIO(content), LIMITS),
        lambda: read_header(tmp_path / "scan", limits=LIMITS),
        lambda: read_header(path, limits=LIMITS),
    ):
        with peak_below(allowed_bytes), pytest.raises(VolumeTooLarge, match=named):
            read()


def test_many_small_elements_are_bounded(tmp_path: Path) -> None:
    tags = [bytes((group, 0, number % 256, number // 256)) for group in (0x11, 0x13) for number in range(30_000)]
    elements = b"".join(tag + b"LO\0\0" for tag in tags)
    whole = as_bytes(series(SCAN[:, :, :1], AFFINE)[0])
    at = whole.index(b"\x18\0\x50\0DS")
    (tmp_path / "scan").write_bytes(whole[:at] + elements + whole[at:])
    limits = VolumeLimits(header_reads=50_000)
    with peak_below(40 * MB), pytest.raises(VolumeTooLarge, match="more than 50000 pieces"):
        read_header(tmp_path / "scan", limits=limits)


def test_nothing_is_unpacked_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what is no DICOM object nor native pixels: there is no folder for temporary files at all."""
    path = zipped(series(SCAN, AFFINE), tmp_path / "a.zip", {"other": bytes(200 * MB)})
    single = zipped([enhanced(SCAN, AFFINE)], tmp_path / "b.zip")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    for file in (path, single):
        with peak_below(10 * MB):
            np.testing.assert_array_equal(read_volume(file).data, SCAN)


@pytest.mark.parametrize("cut", [3, 10, 100, 300])
def test_a_truncated_deflated_object_is_told(cut: int) -> None:
    content = deflated(series(SCAN[:, :, :1], AFFINE)[0])
    with pytest.raises(NotAVolume, match="truncated"):
        read_object(BytesIO(content[:-cut]))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("syntax", [uids.ExplicitVRLittleEndian, uids.ImplicitVRLittleEndian, "deflated", "enhanced"])
def test_a_damaged_header_is_read_or_refused_by_our_own_errors(syntax: str) -> None:
    random = np.random.default_rng(0)
    dataset = enhanced(SCAN, AFFINE) if syntax == "enhanced" else series(SCAN[:, :, :1], AFFINE)[0]
    dataset.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian if syntax == "enhanced" else uids.UID(syntax)
    sound = np.frombuffer(deflated(dataset) if syntax == "deflated" else as_bytes(dataset), np.uint8)
    outcomes = set()
    for _ in range(400):
        damaged = sound.copy()
        damaged[random.integers(128, len(sound), 6)] = random.integers(0, 256, 6)
        try:
            read_object(BytesIO(damaged.tobytes()))
            outcomes.add("read")
        except FactoryError as error:
            outcomes.add(error.slug)
    assert outcomes <= {"read", "not-a-volume", "volume-too-large"}


def test_damaged_deflated_data_is_told() -> None:
    content = deflated(series(SCAN[:, :, :1], AFFINE)[0])
    at = content.index(b"1.2.840.10008.1.2.1.99") + 22
    with pytest.raises(NotAVolume, match="damaged"):
        read_object(BytesIO(content[:at] + b"\xff" * 40 + zlib.compress(b"x")))
