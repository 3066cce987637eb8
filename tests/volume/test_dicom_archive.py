"""What a DICOM upload may be packed in, and what an archive may not do to us."""

import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.dicom_files import PATIENT, as_bytes, saved, series, zipped
from tests.fixtures.volume_files import affine_ras, phantom, write_nifti
from unet_factory.domain.errors import FactoryError, NotAVolume, VolumeTooLarge
from unet_factory.volume import VolumeLimits, read_header, read_volume, sniff_format
from unet_factory.volume.dicom import extract_series, pack_series, read_series

SCAN = phantom()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return saved(series(SCAN, affine_ras()), tmp_path / f"{PATIENT} scan")


def test_packing_is_deterministic_and_tells_no_names(files: list[Path], tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        pack_series(files, tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [f"{index:06d}.dcm" for index in range(7)]
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
    assert sniff_format(tmp_path / "a.zip") == "dicom"
    np.testing.assert_array_equal(read_volume(tmp_path / "a.zip").data, SCAN)


def test_members_are_known_by_content(files: list[Path], tmp_path: Path) -> None:
    others = {
        "1.dcm": b"no DICOM, whatever its name",
        "../../etc/passwd": b"root",
        "empty.dcm": b"",
        "folder/": b"",
        "C:\\scan.dcm": write_nifti(tmp_path / "scan.nii").read_bytes(),
    }
    found = read_series(zipped(series(SCAN, affine_ras()), tmp_path / "a.zip", others))
    assert found.notes == ("ignored 4 files other than DICOM objects",)
    assert len(found.datasets) == 7


def test_one_series_is_extracted_from_several(tmp_path: Path) -> None:
    wanted, other = series(SCAN, affine_ras()), series(SCAN + 1, affine_ras(20))
    source = zipped([*other, *wanted], tmp_path / "a.zip", {"README": b"hello"})
    extract_series(source, tmp_path / "b.zip", str(wanted[0].SeriesInstanceUID))
    found = read_series(tmp_path / "b.zip")
    assert found.notes == ()
    np.testing.assert_array_equal(read_volume(tmp_path / "b.zip").data, SCAN)


def test_an_encrypted_archive_is_refused(files: list[Path], tmp_path: Path) -> None:
    pack_series(files, tmp_path / "a.zip")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    at = content.find(b"PK\1\2", len(content) - 2000)
    content[at + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", NotAVolume, "encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_unusual_compression_is_refused(tmp_path: Path, method: int) -> None:
    refused(zipped(series(SCAN, affine_ras()), tmp_path / "a.zip", method=method), NotAVolume, "unusual")


def test_a_bomb_is_stopped_by_what_it_claims(tmp_path: Path) -> None:
    bomb = zipped(series(SCAN, affine_ras()), tmp_path / "a.zip", {"bomb": bytes(2_000_000)})
    assert bomb.stat().st_size < 20_000
    refused(
        bomb,
        VolumeTooLarge,
        "archive: 20.* bytes decompressed, at most 1000000",
        VolumeLimits(decompressed_bytes=1_000_000),
    )


def test_a_bomb_that_claims_less_is_damaged(tmp_path: Path) -> None:
    """What a member holds beyond its stated size is never inflated."""
    bomb = zipped([], tmp_path / "a.zip", {"bomb": as_bytes(series(SCAN, affine_ras())[0]) + bytes(2_000_000)})
    content = bytearray(bomb.read_bytes())
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        struct.pack_into("<I", content, content.find(signature) + offset, 1000)
    bomb.write_bytes(content)
    refused(bomb, NotAVolume, "damaged", VolumeLimits(decompressed_bytes=1_000_000))


def test_too_many_members_are_refused(files: list[Path], tmp_path: Path) -> None:
    pack_series(files, tmp_path / "a.zip")
    refused(tmp_path / "a.zip", VolumeTooLarge, "7 members, at most 6", VolumeLimits(members=6))
    assert read_header(tmp_path / "a.zip", limits=VolumeLimits(members=7)).shape == SCAN.shape


def test_limits_that_an_operator_raised_hold_for_the_voxels_too(tmp_path: Path) -> None:
    """As many members as an operator allows, more than are allowed by default."""
    others = {f"{index}.txt": b"" for index in range(VolumeLimits().members)}
    path = zipped(series(SCAN, affine_ras()), tmp_path / "a.zip", others)
    allowed = VolumeLimits(members=len(others) + 7)
    assert read_header(path, limits=allowed).shape == SCAN.shape
    np.testing.assert_array_equal(read_volume(path, limits=allowed).data, SCAN)


@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_a_huge_directory_is_not_even_loaded(tmp_path: Path, zip64: bool, comment: bytes) -> None:
    """``zipfile`` would make an object of every entry before anybody could count them."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 6, 0, 0, 0, 1, *[0] * 4, 0, 0) + b"x"
    directory = entry * 100_000
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 100_000, 100_000, len(directory), 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(directory), 1)
    stated = 0xFFFFFFFF if zip64 else len(directory)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, stated, 0, len(comment)) + comment
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK\3\4" + bytes(26) + directory + (end64 + locator if zip64 else b"") + end)
    refused(path, VolumeTooLarge, "directory of the archive: 4700000 bytes", VolumeLimits(members=4000))


@pytest.mark.parametrize("cut", [10, 100, 1000, 4000])
def test_a_truncated_archive_is_damaged(files: list[Path], tmp_path: Path, cut: int) -> None:
    pack_series(files, tmp_path / "a.zip")
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-cut])
    refused(tmp_path / "a.zip", NotAVolume, "zip archive is damaged")


def test_changed_bytes_are_found_by_their_checksum(files: list[Path], tmp_path: Path) -> None:
    pack_series(files, tmp_path / "a.zip")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", NotAVolume, "zip archive is damaged")


@pytest.mark.parametrize("content", [{}, {"a.txt": b"hello"}, {"a.dcm": b""}])
def test_an_archive_without_dicom_is_no_volume(tmp_path: Path, content: dict[str, bytes]) -> None:
    refused(zipped([], tmp_path / "a.zip", content), NotAVolume, "a zip archive without a DICOM object")


def test_limits_hold_for_the_volume(files: list[Path], tmp_path: Path) -> None:
    pack_series(files, tmp_path / "a.zip")
    for limits, named in (
        (VolumeLimits(voxels=209), "shape 5 x 6 x 7: 210 voxels"),
        (VolumeLimits(max_axis=6), "longest axis"),
        (VolumeLimits(compressed_bytes=1000), "file size"),
    ):
        refused(tmp_path / "a.zip", VolumeTooLarge, named, limits)


def test_pydicom_tells_nothing_of_a_patient_and_is_not_loaded_for_a_nifti(tmp_path: Path, files: list[Path]) -> None:
    """In a process of its own, as the tests' own warnings filters would hide what is printed."""
    odd = series(SCAN, affine_ras())
    for one in odd:
        one.add_new("PatientBirthDate", "DA", "DOE JANE")
        one.add_new("StudyTime", "TM", "DOE JANE, at noon")
    path = zipped(odd, tmp_path / "a.zip")
    nifti = write_nifti(tmp_path / "scan.nii")
    code = f"""
import sys
from pathlib import Path
from unet_factory.volume import read_header
read_header(Path({str(nifti)!r}))
assert "unet_factory.volume.dicom" not in sys.modules
print(read_header(Path({str(path)!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "DOE" not in done.stdout + done.stderr
    assert done.stderr == ""


def refused(path: Path, error: type[FactoryError], named: str, limits: VolumeLimits | None = None) -> None:
    for read in (read_header, read_volume):
        with pytest.raises(error, match=named):
            read(path, limits=limits or VolumeLimits())
