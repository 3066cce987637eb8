"""Files that are no usable volume: each has its error, names its number, costs little and leaves nothing behind."""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.memory import peak_below
from tests.fixtures.volume_files import affine_ras, phantom, write_mha, write_nifti, write_nrrd, write_volume
from unet_factory.domain.errors import FactoryError, GeometryInvalid, NotAVolume, SpacingInvalid, VolumeTooLarge
from unet_factory.volume import VolumeLimits, read_header, read_volume, sniff_format

RAW = phantom().tobytes(order="F")
NIFTI_BYTES = 352 + len(RAW)


def tar_of(content: bytes) -> bytes:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            member = tarfile.TarInfo("scan.nii")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        return file.getvalue()


def refuses(path: Path, error: type[FactoryError], named: str) -> None:
    """Both readers refuse ``path`` with the very same error."""
    for read in (read_header, read_volume):
        with pytest.raises(FactoryError, match=named) as caught:
            read(path)
        assert type(caught.value) is error


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "is empty"),
        (b"patient,scan\n1,2\n", "is text"),
        (b"PK\3\4" + bytes(100), "zip archive"),
        (b"\x89HDF" + bytes(400), "HDF5"),
        (bytes(400), "begins with the bytes 00"),
        (b"\x1f\x8b", "gzipped data that is empty"),
        (gzip.compress(b"hello"), "gzipped data that is text"),
        (gzip.compress(b"NRRD0004\n"), "gzipped"),
        (b"\x1f\x8b" + b"\xff" * 50, "damaged"),
        (gzip.compress(gzip.compress(RAW)), "gzipped once more"),
        (bz2.compress(RAW), "bzip2"),
        (lzma.compress(RAW), "xz"),
        ((348).to_bytes(4, "little") + bytes(344), "Analyze 7.5"),
        (nib.MGHImage(phantom().astype("int32"), affine_ras()).to_bytes(), "a FreeSurfer MGH volume"),
        (gzip.compress(nib.MGHImage(phantom().astype("int32"), affine_ras()).to_bytes()), "a FreeSurfer MGH volume"),
        (gzip.compress(b"II*\0" + bytes(124) + b"DICM" + bytes(300)), "gzipped data that is a DICOM object"),
        (b"\x89PNG\r\n\x1a\n" + bytes(400), "a picture"),
        (b"# vtk DataFile Version 3.0\nVTK File\nBINARY\n", "a VTK file; convert it"),
        (gzip.compress((348).to_bytes(4, "big") + bytes(344)), "gzipped data that is an Analyze 7.5"),
        (tar_of(RAW), "tar archive"),
        (gzip.compress(tar_of(RAW)), "gzipped data that is a tar archive"),
    ],
)
@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.mha", "scan.txt"])
def test_other_files(tmp_path: Path, content: bytes, named: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    refuses(tmp_path / name, NotAVolume, named)
    with pytest.raises(NotAVolume, match=named):
        sniff_format(tmp_path / name)


def test_no_file(tmp_path: Path) -> None:
    refuses(tmp_path / "scan.nii", NotAVolume, "No such file")
    refuses(tmp_path, NotAVolume, "directory")


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"dim": (2, 5, 42, 1, 1, 1, 1, 1)}, GeometryInvalid, r"2 dimensions, shape \(5, 42\)"),
        ({"dim": (1, 210, 1, 1, 1, 1, 1, 1)}, GeometryInvalid, "1 dimensions"),
        ({"dim": (4, 5, 6, 1, 7, 1, 1, 1)}, GeometryInvalid, r"4 dimensions, shape \(5, 6, 1, 7\)"),
        ({"dim": (5, 5, 6, 7, 1, 3, 1, 1)}, GeometryInvalid, r"5 dimensions, shape \(5, 6, 7, 1, 3\)"),
        ({"dim": (3, 5, 0, 7, 1, 1, 1, 1)}, GeometryInvalid, r"\(5, 0, 7\)"),
        ({"dim": (3, 5, -6, 7, 1, 1, 1, 1)}, GeometryInvalid, r"\(5, -6, 7\)"),
        ({"dim": (4, 5, 6, 7, 0, 1, 1, 1)}, GeometryInvalid, r"\(5, 6, 7, 0\)"),
        ({"dim": (0, 5, 6, 7, 1, 1, 1, 1)}, NotAVolume, r"dim\[0\], is 0"),
        ({"dim": (99, 5, 6, 7, 1, 1, 1, 1)}, NotAVolume, r"dim\[0\], is 99"),
        ({"dim": (3, 32767, 1, 1, 1, 1, 1, 1)}, VolumeTooLarge, "32767"),
        ({"dim": (3, 4096, 4096, 4096, 1, 1, 1, 1)}, VolumeTooLarge, "68719476736 voxels, at most 1073741824"),
        ({"dim": (3, 1024, 1024, 1024, 1, 1, 1, 1), "datatype": 64}, VolumeTooLarge, "8589934944 bytes"),
        ({"vox_offset": float("nan")}, NotAVolume, "vox_offset is nan"),
        ({"vox_offset": float("-inf")}, NotAVolume, "vox_offset is -inf"),
        ({"vox_offset": float("inf")}, NotAVolume, "vox_offset is inf"),
        ({"vox_offset": -352.0}, NotAVolume, "vox_offset is -352"),
        ({"vox_offset": 0.0}, NotAVolume, "vox_offset is 0"),
        ({"vox_offset": 1e30}, NotAVolume, r"vox_offset is 1e\+30"),
        ({"vox_offset": 352.5}, NotAVolume, "vox_offset is 352.5"),
        ({"vox_offset": 2.0**26}, NotAVolume, "truncated: expected 67109284 bytes"),
        ({"datatype": 0}, NotAVolume, "code 0"),
        ({"datatype": 1}, NotAVolume, "code 1"),
        ({"datatype": 999}, NotAVolume, "datatype code 999"),
        ({"datatype": 32}, NotAVolume, "complex64"),
        ({"datatype": 128}, NotAVolume, "RGB"),
        ({"datatype": 2304}, NotAVolume, "RGBA"),
        ({"datatype": 1536}, NotAVolume, "float128"),
        ({"scl": (2.0, float("nan"))}, NotAVolume, "scl_inter nan"),
        ({"magic": b"ni1\0"}, NotAVolume, "NIfTI pair"),
        ({"magic": b"abcd"}, NotAVolume, "no NIfTI"),
    ],
)
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_nifti_headers(
    tmp_path: Path, name: str, fields: dict[str, Any], error: type[FactoryError], named: str
) -> None:
    refuses(write_nifti(tmp_path / name, **fields), error, named)


MHA_CASES: list[tuple[dict[str, Any], type[FactoryError], str]] = [
    ({"NDims": "2", "DimSize": "5 42"}, GeometryInvalid, "2 dimensions"),
    ({"NDims": "4", "DimSize": "5 6 1 7"}, GeometryInvalid, r"\(5, 6, 1, 7\)"),
    ({"NDims": "10000"}, NotAVolume, "10000"),  # ends a process that asks SimpleITK
    ({"NDims": "-3"}, NotAVolume, "-3"),
    ({"NDims": "4"}, NotAVolume, "DimSize has 3 numbers"),
    ({"DimSize": "5 six 7"}, NotAVolume, "DimSize is a text of 7 characters, not whole numbers"),
    ({"DimSize": None}, NotAVolume, "no DimSize"),
    ({"DimSize": "5 -6 7"}, GeometryInvalid, "-6"),
    ({"DimSize": "99999999999999999999 6 7"}, VolumeTooLarge, "99999999999999999999"),
    ({"ElementType": "MET_FLOAT_ARRAY"}, NotAVolume, "MET_FLOAT_ARRAY"),
    ({"ElementType": None}, NotAVolume, "no ElementType"),
    ({"ElementNumberOfChannels": "3"}, NotAVolume, "'3'"),
    ({"ElementDataFile": "/etc/passwd"}, NotAVolume, "another file .ElementDataFile"),
    ({"ElementDataFile": "LIST"}, NotAVolume, "another file .ElementDataFile"),
    ({"ElementDataFile": "scan.raw"}, NotAVolume, "another file .ElementDataFile.*send one .mha"),
    ({"ObjectType": "Mesh"}, NotAVolume, "ObjectType is a text of 4 characters; readable are Image"),
    ({"BinaryData": "False"}, NotAVolume, "BinaryData is False"),
    ({"HeaderSize": "-1"}, NotAVolume, "HeaderSize"),
    ({"Position": "0 0 0"}, NotAVolume, "both Offset and Position"),
    ({"TransformMatrix": "1 0 0 1"}, NotAVolume, "9 numbers"),
    ({"Offset": "a b c"}, NotAVolume, "Offset is a text of 5 characters, not 3 numbers"),
    ({"Comment": "x" * 2**20}, NotAVolume, "does not end within"),
]


@pytest.mark.parametrize(("fields", "error", "named"), MHA_CASES)
def test_mha_headers(tmp_path: Path, fields: dict[str, Any], error: type[FactoryError], named: str) -> None:
    refuses(write_mha(tmp_path / "scan.mha", **fields), error, named)


def test_an_mha_axis_that_mixes_with_time(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"NDims": "4", "DimSize": "5 6 7 1", "ElementSpacing": "1 2 3 1", "Offset": "0 0 0 0"}
    matrix = "1 0 0 .5 0 1 0 0 0 0 1 0 0 0 0 1"
    refuses(write_mha(tmp_path / "scan.mha", TransformMatrix=matrix, **fields), GeometryInvalid, "fourth axis")


NRRD_CASES: list[tuple[dict[str, Any], type[FactoryError], str]] = [
    ({"dimension": "2", "sizes": "5 42", "kinds": "domain domain"}, GeometryInvalid, "2 dimensions"),
    ({"kinds": "RGB-color domain domain"}, GeometryInvalid, "rgb-color"),
    ({"dimension": "4", "sizes": "3 5 6 7", "kinds": "vector domain domain domain"}, GeometryInvalid, "vector"),
    ({"dimension": "4", "sizes": "5 6 7 2", "kinds": "domain domain domain list"}, GeometryInvalid, "list"),
    ({"dimension": "4", "sizes": "5 6 7 2", "kinds": None}, GeometryInvalid, r"\(5, 6, 7, 2\)"),
    ({"dimension": "10000"}, NotAVolume, "10000"),
    ({"kinds": "domain"}, NotAVolume, "1 words for 3 axes"),
    ({"sizes": "99999999999 6 7"}, VolumeTooLarge, "99999999999"),
    ({"sizes": None}, NotAVolume, "no sizes"),
    ({"type": "block"}, NotAVolume, "block"),
    ({"endian": None}, NotAVolume, "no endian"),
    ({"encoding": "hex"}, NotAVolume, "hex"),
    ({"encoding": None}, NotAVolume, "no encoding"),
    ({"data_file": "../secret.raw"}, NotAVolume, "another file"),
    ({"datafile": "LIST"}, NotAVolume, "another file"),
    ({"byte_skip": "-1"}, NotAVolume, "byteskip"),
    ({"space_units": '"' + "x" * 100_000}, FactoryError, "space units"),  # ends a process that asks SimpleITK
    ({"space_origin": "(" + ",".join(["1"] * 10_000) + ")"}, NotAVolume, "not 3 numbers"),  # and so does this
]


@pytest.mark.parametrize(("fields", "error", "named"), NRRD_CASES)
def test_nrrd_headers(tmp_path: Path, fields: dict[str, Any], error: type[FactoryError], named: str) -> None:
    path = write_nrrd(tmp_path / "scan.nrrd", **fields)
    for read in (read_header, read_volume):
        with pytest.raises(error, match=named) as caught:
            read(path)
        assert len(str(caught.value)) < 1000


def test_a_header_that_says_it_twice(tmp_path: Path) -> None:
    for path in (write_mha(tmp_path / "scan.mha"), write_nrrd(tmp_path / "scan.nrrd")):
        text = path.read_bytes().replace(b"DimSize", b"DimSize = 1 1 1\nDimSize", 1)
        path.write_bytes(text.replace(b"sizes", b"sizes: 1 1 1\nSizes", 1))
        refuses(path, NotAVolume, "twice")


def test_a_text_header_with_nul_bytes(tmp_path: Path) -> None:
    """ITK takes the line before it for a statement, as in CompressedData here, and would read other voxels."""
    for path in (write_mha(tmp_path / "scan.mha"), write_nrrd(tmp_path / "scan.nrrd")):
        text = path.read_bytes().replace(b"\nDimSize", b"\nCompressedData\0alse\nDimSize", 1)
        path.write_bytes(text.replace(b"\nsizes", b"\ncontent: a\0b\nsizes", 1))
        refuses(path, NotAVolume, "NUL bytes")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_truncated(tmp_path: Path, suffix: str, keep: float) -> None:
    """At 1.0 only the last byte is missing."""
    data = np.random.default_rng(0).integers(0, 2**15, (30, 20, 10)).astype(np.int16)
    path = write_volume(tmp_path / f"scan{suffix}", data, affine_ras())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) - (keep == 1)])
    with pytest.raises(NotAVolume, match="truncated"):
        read_volume(path)
    if suffix != ".mha":  # zlib says only at its end how long it is
        with pytest.raises(NotAVolume, match="truncated"):
            read_header(path)


def test_truncation_names_both_lengths(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii")
    path.write_bytes(path.read_bytes()[:-20])
    refuses(path, NotAVolume, f"expected {NIFTI_BYTES} bytes, found {NIFTI_BYTES - 20}")
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    refuses(tmp_path / "scan.nii.gz", NotAVolume, f"expected {NIFTI_BYTES} bytes, found {NIFTI_BYTES - 20}")


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_damaged_compressed_data(tmp_path: Path, suffix: str) -> None:
    """SimpleITK returns such an MHA as a volume of wrong voxels."""
    data = np.random.default_rng(0).integers(0, 2**15, (30, 20, 10)).astype(np.int16)
    path = write_volume(tmp_path / f"scan{suffix}", data, affine_ras())
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(NotAVolume, match=r"damaged|truncated"):
        read_volume(path)


def test_more_data_than_declared(tmp_path: Path) -> None:
    plain = write_nifti(tmp_path / "scan.nii").read_bytes() + bytes(5000)
    (tmp_path / "scan.nii").write_bytes(plain)
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(plain))
    for name in ("scan.nii", "scan.nii.gz"):
        refuses(tmp_path / name, NotAVolume, f"more than the {NIFTI_BYTES} bytes")


def test_limits(tmp_path: Path) -> None:
    for path in (write_nifti(tmp_path / "a.nii.gz"), write_mha(tmp_path / "b.mha"), write_nrrd(tmp_path / "c.nrrd")):
        size = path.stat().st_size
        for limits, named in (
            (VolumeLimits(compressed_bytes=size - 1), f"{size} bytes, at most {size - 1}"),
            (VolumeLimits(decompressed_bytes=len(RAW) - 1), f"at most {len(RAW) - 1}"),
            (VolumeLimits(voxels=209), "210 voxels, at most 209"),
            (VolumeLimits(max_axis=6), "7 voxels, at most 6"),
        ):
            with pytest.raises(VolumeTooLarge, match=named):
                read_header(path, limits=limits)
        read_volume(path, limits=VolumeLimits(size, NIFTI_BYTES, 210, 7))


def test_a_small_file_cannot_make_a_large_array(tmp_path: Path) -> None:
    """2 KB that claim a gigabyte."""
    claims = (3, 1000, 1000, 1000, 1, 1, 1, 1)
    path = write_nifti(tmp_path / "scan.nii.gz", np.zeros((100, 100, 20), np.uint8), dim=claims)
    assert path.stat().st_size < 2048
    mha = write_mha(tmp_path / "b.mha", zlib.compress(RAW), CompressedData="True", DimSize="1000 1000 1000")
    nrrd = write_nrrd(tmp_path / "c.nrrd", gzip.compress(RAW), encoding="gzip", sizes="1000 1000 1000")
    with peak_below(8 * 2**20):
        for bomb in (path, mha, nrrd):
            refuses(bomb, NotAVolume, r"truncated: expected \d{10} bytes")


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("write", [write_nifti, write_mha, write_nrrd])
def test_a_bomb_behind_a_small_header_is_not_inflated(tmp_path: Path, write: Callable[..., Path], forged: bool) -> None:
    """64 MiB of zeros behind a header of 210 voxels; ``forged`` claims the right length in the gzip trailer."""
    zeros = bytes(64 * 2**20)
    if write is write_nifti:
        path = write(tmp_path / "scan.nii")
        expected = path.stat().st_size
        path.write_bytes(gzip.compress(path.read_bytes() + zeros))
    elif write is write_mha:
        path, expected = write(tmp_path / "scan.mha", zlib.compress(RAW + zeros), CompressedData="True"), len(RAW)
    else:
        path, expected = write(tmp_path / "scan.nrrd", gzip.compress(RAW + zeros), encoding="gzip"), len(RAW)
    if forged:
        path.write_bytes(path.read_bytes()[:-4] + expected.to_bytes(4, "little"))
    with peak_below(8 * 2**20), pytest.raises(NotAVolume, match=f"more than the {expected} bytes"):
        read_volume(path)


def test_a_large_extension_is_skipped_in_pieces(tmp_path: Path) -> None:
    plain = write_nifti(tmp_path / "scan.nii", vox_offset=352.0 + 32 * 2**20).read_bytes()
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(plain[:352] + bytes(32 * 2**20) + plain[352:], 1))
    with peak_below(8 * 2**20):
        np.testing.assert_array_equal(read_volume(tmp_path / "scan.nii.gz").data, phantom())


def test_nifti2_dimensions_of_any_size(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(phantom(), affine_ras()), tmp_path / "scan.nii")
    content = bytearray((tmp_path / "scan.nii").read_bytes())
    content[24:32] = (2**62).to_bytes(8, "little")
    (tmp_path / "scan.nii").write_bytes(content)
    refuses(tmp_path / "scan.nii", VolumeTooLarge, str(2**62))
    (tmp_path / "scan.nii").write_bytes(content[:400])
    refuses(tmp_path / "scan.nii", NotAVolume, "within the NIfTI header")


def test_numbers_beyond_all_bounds(tmp_path: Path) -> None:
    huge = "1e308 0 0 0 1e308 0 0 0 1e308"
    mha = write_mha(tmp_path / "scan.mha", TransformMatrix=huge, ElementSpacing="1e308 1e308 1e308")
    refuses(mha, GeometryInvalid, "not finite")
    refuses(write_nrrd(tmp_path / "scan.nrrd", space_directions="(1e200,0,0) (0,2,0) (0,0,3)"), SpacingInvalid, "inf")
    with np.errstate(over="ignore"):
        nib.save(nib.Nifti2Image(phantom(), np.diag((1e200, 1, 1, 1))), tmp_path / "scan.nii")
    with pytest.raises(FactoryError, match="inf"):
        read_header(tmp_path / "scan.nii")


def test_the_libraries_stay_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """nibabel logs each repair that it would make."""
    path = write_nifti(tmp_path / "scan.nii", codes=(99, 77), pixdim=(0, 0.75, 1.5, -3.25, 1, 1, 1, 1))
    with pytest.raises(SpacingInvalid):
        read_header(path)
    read_header(path, spacing_ras_mm=(1, 2, 3))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from([".nii", ".nii.gz", ".mha", ".nrrd", "z.mha"]))
def test_whatever_the_bytes_are(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str) -> None:
    """Overwriting bytes yields a volume or a FactoryError, never another exception or a warning."""
    content = bytearray(_sound_file(tmp_path_factory, kind))
    for at in data.draw(st.lists(st.integers(0, min(len(content), 400) - 1), min_size=1, max_size=8)):
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "scan"
    path.write_bytes(gzip.compress(content) if kind == ".nii.gz" else content)
    for given_spacing in (None, (1.0, 2.0, 3.0)):
        try:
            volume = read_volume(path, spacing_ras_mm=given_spacing, limits=VolumeLimits(voxels=100_000))
        except FactoryError as error:
            assert str(error)  # noqa: PT017
        else:
            assert np.isfinite(volume.data).all()
            assert min(volume.spacing_ras_mm) > 0


def _sound_file(tmp_path_factory: pytest.TempPathFactory, kind: str) -> bytes:
    folder = tmp_path_factory.mktemp("sound")
    if kind == "z.mha":
        return write_mha(folder / kind, zlib.compress(RAW), CompressedData="True").read_bytes()
    writer = {".mha": write_mha, ".nrrd": write_nrrd}.get(kind, write_nifti)
    return writer(folder / "scan.x").read_bytes()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("name", "named"), [("scan.mhd", "send one .mha"), ("scan.nhdr", "send one .nrrd")])
def test_a_header_without_its_voxels_is_called_that(tmp_path: Path, name: str, named: str, compressed: bool) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(phantom()), str(tmp_path / name), compressed)
    refuses(tmp_path / name, NotAVolume, f"the voxels are in another file .*{named}")
