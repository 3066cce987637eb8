"""Voxel values: every type, scaling and encoding, no hidden copies, and no NaN."""

import gzip
import math
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.fixtures.volume_files import (
    affine_ras,
    itk_voxels,
    load_itk,
    phantom,
    write_mha,
    write_nifti,
    write_nrrd,
    write_volume,
)
from unet_factory.domain.errors import NotAVolume
from unet_factory.volume import read_header, read_volume, sniff_format

DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(tmp_path: Path, suffix: str, dtype: str) -> None:
    data = (phantom() % 100).astype(dtype)
    path = write_volume(tmp_path / f"scan{suffix}", data, affine_ras())
    assert read_header(path).dtype == dtype
    np.testing.assert_array_equal(read_volume(path).data, data)


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
def test_big_endian_and_nifti2(tmp_path: Path, dtype: str) -> None:
    kind: Any
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        header = kind.header_class(endianness=">")
        header.set_data_dtype(np.dtype(dtype).newbyteorder(">"))
        nib.save(kind(phantom(dtype=dtype), affine_ras(), header), tmp_path / "scan.nii")
        np.testing.assert_array_equal(read_volume(tmp_path / "scan.nii").data, phantom())
    big = phantom(dtype=dtype).astype(np.dtype(dtype).newbyteorder(">")).tobytes(order="F")
    kinds = {"int16": ("MET_SHORT", "short"), "float32": ("MET_FLOAT", "float"), "float64": ("MET_DOUBLE", "double")}
    met, teem = kinds[dtype]
    for path in (
        write_mha(tmp_path / "scan.mha", big, ElementType=met, BinaryDataByteOrderMSB="True"),
        write_nrrd(tmp_path / "scan.nrrd", big, type=teem, endian="big"),
    ):
        np.testing.assert_array_equal(itk_voxels(load_itk(path)), phantom())
        np.testing.assert_array_equal(read_volume(path).data[::-1, ::-1], phantom())


@pytest.mark.parametrize("scl", [(0.5, -3.0), (2.0, 1e6), (1e-3, 0.0), (-1.0, 0.0)])
def test_scaling_is_applied_with_one_rounding(tmp_path: Path, scl: tuple[float, float]) -> None:
    slope, inter = (float(np.float32(value)) for value in scl)
    expected = (phantom().astype(np.float64) * slope + inter).astype(np.float32)
    np.testing.assert_array_equal(read_volume(write_nifti(tmp_path / "scan.nii", scl=scl)).data, expected)


@pytest.mark.parametrize("scl", [(0.0, 5.0), (float("nan"), 5.0), (1.0, 0.0)])
def test_no_scaling(tmp_path: Path, scl: tuple[float, float]) -> None:
    np.testing.assert_array_equal(read_volume(write_nifti(tmp_path / "scan.nii", scl=scl)).data, phantom())


def test_large_integers_are_scaled_before_they_are_rounded(tmp_path: Path) -> None:
    data = np.full((2, 2, 2), 2**30 + 1, np.int32)
    path = write_nifti(tmp_path / "scan.nii", data, scl=(1.0, -float(2**30)))
    assert read_volume(path).data.max() == 1


@pytest.mark.parametrize("dim", [(4, 5, 6, 7, 1, 1, 1, 1), (5, 5, 6, 7, 1, 1, 1, 1), (3, 5, 6, 7, 9, 9, 9, 9)])
def test_one_volume_of_more_dimensions(tmp_path: Path, dim: tuple[int, ...]) -> None:
    volume = read_volume(write_nifti(tmp_path / "scan.nii", dim=dim))
    assert volume.header.shape == (5, 6, 7)
    np.testing.assert_array_equal(volume.data, phantom())


def test_one_volume_of_more_dimensions_in_mha_and_nrrd(tmp_path: Path) -> None:
    identity = " ".join(str(int(row == column)) for row in range(4) for column in range(4))
    four: dict[str, Any] = {"NDims": "4", "DimSize": "5 6 7 1", "ElementSpacing": "1 2 3 1", "Offset": "0 0 0 0"}
    paths = [write_mha(tmp_path / "scan.mha", TransformMatrix=identity, **four)]
    for name, sizes, directions, kinds in (
        ("leading", "1 5 6 7", "none (1,0,0) (0,2,0) (0,0,3)", "vector domain domain domain"),
        ("trailing", "5 6 7 1", "(1,0,0) (0,2,0) (0,0,3) none", "domain domain domain list"),
    ):
        fields: dict[str, Any] = {"dimension": "4", "sizes": sizes, "space_directions": directions, "kinds": kinds}
        paths.append(write_nrrd(tmp_path / f"{name}.nrrd", **fields))
    for path in paths:
        assert read_header(path).spacing_ras_mm == (1, 2, 3)
        np.testing.assert_array_equal(read_volume(path).data[::-1, ::-1], phantom())


@pytest.mark.parametrize("shape", [(5, 6, 1), (1, 1, 1), (1, 6, 7)])
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_a_single_slice_is_a_volume(tmp_path: Path, suffix: str, shape: tuple[int, int, int]) -> None:
    volume = read_volume(write_volume(tmp_path / f"scan{suffix}", phantom(shape), affine_ras()))
    assert volume.data.shape == shape


def test_a_constant_volume_is_a_volume(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "scan.nii", np.full((4, 4, 4), 7, np.int16), affine_ras())
    assert np.ptp(read_volume(path).data) == 0


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    plain = write_nifti(tmp_path / "scan.nii").read_bytes()
    contents = {
        "plain.nii.gz": plain,
        "gzipped.nii": gzip.compress(plain),
        "no-suffix": gzip.compress(plain),
        "members.nii.gz": gzip.compress(plain[:400]) + gzip.compress(plain[400:]),
        "padded.nii.gz": gzip.compress(plain) + bytes(512),
        "padded.nii": plain + bytes(512),
        "scan.dcm": plain,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, phantom())
    assert sniff_format(write_mha(tmp_path / "mha.nrrd")) == "mha"
    assert sniff_format(write_nrrd(tmp_path / "nrrd.nii")) == "nrrd"
    np.testing.assert_array_equal(read_volume(tmp_path / "nrrd.nii").data, read_volume(tmp_path / "mha.nrrd").data)


def test_members_of_a_gzip_file_may_break_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = write_nifti(tmp_path / "scan.nii").read_bytes()
    (tmp_path / "scan.nii.gz").write_bytes(b"".join(gzip.compress(plain[at : at + 100]) for at in range(0, 800, 100)))
    for piece_bytes in (2, 7, 97):
        monkeypatch.setattr("unet_factory.volume.payload._PIECE_BYTES", piece_bytes)
        np.testing.assert_array_equal(read_volume(tmp_path / "scan.nii.gz").data, phantom())


def test_compressed_payloads(tmp_path: Path) -> None:
    raw = phantom().tobytes(order="F")
    for path in (
        write_mha(tmp_path / "zlib.mha", zlib.compress(raw), CompressedData="True"),
        write_nrrd(tmp_path / "gzip.nrrd", gzip.compress(raw), encoding="gzip"),
        write_nrrd(tmp_path / "gz.nrrd", gzip.compress(raw), encoding="gz"),
    ):
        np.testing.assert_array_equal(read_volume(path).data[::-1, ::-1], phantom())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_voxels_that_are_not_finite_are_counted_and_refused(tmp_path: Path, value: float) -> None:
    data = phantom(dtype="float64")
    data[0, 1, :3] = value
    for suffix in (".nii.gz", ".mha", ".nrrd"):
        path = write_volume(tmp_path / f"scan{suffix}", data, affine_ras())
        with pytest.raises(NotAVolume, match="3 of 210 voxels") as caught:
            read_volume(path)
        assert caught.value.details == {"non_finite_voxels": 3, "voxels": 210}


def test_slabs_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", scl=(2.0, 1.0))
    for slab_bytes in (1, 60, 130, 10_000):
        monkeypatch.setattr("unet_factory.volume.reading._SLAB_BYTES", slab_bytes)
        np.testing.assert_array_equal(read_volume(path).data, phantom() * 2.0 + 1)


@pytest.mark.parametrize("scl", [(1.0, 0.0), (2.0, 1.0)])
def test_float64_files_are_never_held_whole(tmp_path: Path, scl: tuple[float, float]) -> None:
    shape = (256, 256, 160)
    small = np.zeros((1, 1, 1))
    path = write_nifti(tmp_path / "scan.nii", small, dim=(3, *shape, 1, 1, 1, 1), scl=scl)
    file_bytes = 352 + 8 * math.prod(shape)
    with path.open("r+b") as file:
        file.truncate(file_bytes)  # sparse zeros
    tracemalloc.start()
    try:
        volume = read_volume(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert volume.data.max() == scl[1]
    assert volume.data.nbytes <= peak_bytes < file_bytes
