"""Label maps: on the source's own grid bit by bit, in any format, complete or not there."""

import errno
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.fixtures.volume_files import (
    SUFFIXES,
    affine_ras,
    itk_orientation,
    itk_voxels,
    load_itk,
    load_nifti,
    phantom,
    reoriented,
    write_mha,
    write_nifti,
    write_nrrd,
)
from tests.fixtures.volume_files import write_volume as write_scan
from unet_factory.domain.errors import GeometryInvalid, MalformedRequest, NotAVolume, StorageFull
from unet_factory.domain.manifest import Label
from unet_factory.volume import read_header, read_volume, volumes_ml, write_labelmap

LABELS = (phantom() % 4).astype(np.uint8)
GRID_FIELDS = (
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


@pytest.mark.parametrize("source_suffix", SUFFIXES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_to_every_format(tmp_path: Path, source_suffix: str, suffix: str) -> None:
    stored, affine = reoriented(phantom(), affine_ras(20), (1, 2, 0), (-1, 1, -1))
    source = write_scan(tmp_path / f"scan{source_suffix}", stored, affine)
    out = tmp_path / f"labels{suffix}"
    write_labelmap(out, LABELS, source)
    labels = read_volume(out)
    np.testing.assert_array_equal(labels.data, LABELS)
    assert labels.header.dtype == "uint8"
    assert labels.header.shape == stored.shape
    np.testing.assert_allclose(labels.header.affine, affine, atol=2e-5)
    if suffix in (".mha", ".nrrd"):
        image = load_itk(out)
        np.testing.assert_array_equal(itk_voxels(image), stored % 4)
        assert image.GetSpacing() == pytest.approx(np.linalg.norm(affine[:3, :3], axis=0), rel=1e-6)
        assert itk_orientation(image) == "PSL"
    else:
        np.testing.assert_array_equal(np.asarray(load_nifti(out).dataobj), stored % 4)
        assert load_nifti(out).header.get_xyzt_units()[0] == "mm" or ".nii" in source.suffixes


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2), (1, 4), (0, 99)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("endianness", "<>")
def test_nifti_geometry_is_copied_field_by_field(
    tmp_path: Path, codes: tuple[int, int], kind: Any, endianness: str
) -> None:
    header = kind.header_class(endianness=endianness)
    image = kind(phantom(), affine_ras(13), header)
    image.set_qform(affine_ras(13), 1)
    image.header["pixdim"][4:8] = (2.5, 0, 7, -1)
    image.header["xyzt_units"] = 3 + 8
    image.header["qform_code"], image.header["sform_code"] = codes
    image.header["descrip"] = b"DOE^JANE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE"))
    nib.save(image, tmp_path / "scan.nii")
    raw = bytearray((tmp_path / "scan.nii").read_bytes())
    at = 254 if kind is nib.Nifti1Image else 348  # nibabel will not save an unknown sform code
    width = 2 if kind is nib.Nifti1Image else 4
    raw[at : at + width] = codes[1].to_bytes(width, "little" if endianness == "<" else "big")
    (tmp_path / "scan.nii").write_bytes(raw)
    write_labelmap(tmp_path / "labels.nii", LABELS, tmp_path / "scan.nii")
    source, labels = load_nifti(tmp_path / "scan.nii"), load_nifti(tmp_path / "labels.nii")
    np.testing.assert_array_equal(labels.affine, source.affine)
    assert labels.header.get_zooms() == source.header.get_zooms()
    assert type(labels) is kind
    for field in GRID_FIELDS:
        np.testing.assert_array_equal(labels.header[field], source.header[field])
    assert (labels.dataobj.slope, labels.dataobj.inter) == (1, 0)
    assert labels.header["cal_max"] == 3
    assert b"DOE" not in (tmp_path / "labels.nii").read_bytes()


def test_one_4d_volume_keeps_its_four_dimensions(tmp_path: Path) -> None:
    source = write_nifti(tmp_path / "scan.nii", dim=(4, 5, 6, 7, 1, 1, 1, 1))
    write_labelmap(tmp_path / "labels.nii.gz", LABELS, source)
    assert load_nifti(tmp_path / "labels.nii.gz").shape == load_nifti(source).shape == (5, 6, 7, 1)
    four: dict[str, Any] = {"dimension": "4", "sizes": "1 5 6 7", "space_directions": "none (1,0,0) (0,2,0) (0,0,3)"}
    source = write_nrrd(tmp_path / "scan.nrrd", kinds="vector domain domain domain", **four)
    write_labelmap(tmp_path / "labels.nrrd", LABELS, source)
    np.testing.assert_array_equal(read_volume(tmp_path / "labels.nrrd").data, LABELS)


def test_a_contradictory_source_gets_its_own_contradictory_grid(tmp_path: Path) -> None:
    """Whoever gave the spacing overlays the labels on the file they sent."""
    source = write_nifti(tmp_path / "scan.nii", codes=(0, 2), pixdim=(1, 9, 9, 9, 1, 1, 1, 1))
    write_labelmap(tmp_path / "labels.nii.gz", LABELS, source)
    np.testing.assert_array_equal(load_nifti(tmp_path / "labels.nii.gz").affine, load_nifti(source).affine)
    assert load_nifti(tmp_path / "labels.nii.gz").header.get_zooms() == (9, 9, 9)


def test_text_headers_keep_geometry_and_drop_the_rest(tmp_path: Path) -> None:
    digits = "0.1234567890123456789"
    mha = write_mha(tmp_path / "scan.mha", Offset=f"{digits} 0 0", Comment="DOE JANE")
    nrrd = write_nrrd(tmp_path / "scan.nrrd", space_origin=f"({digits},0,0)", content="DOE JANE")
    for source in (mha, nrrd):
        out = source.with_stem("labels")
        write_labelmap(out, LABELS, source)
        assert digits.encode() in out.read_bytes()
        assert b"DOE" not in out.read_bytes()
        np.testing.assert_array_equal(read_header(out).affine, read_header(source).affine)


def test_the_same_labels_are_the_same_bytes(tmp_path: Path) -> None:
    source = write_nifti(tmp_path / "scan.nii")
    for suffix in SUFFIXES:
        for name in ("one", "two"):
            write_labelmap(tmp_path / f"{name}{suffix}", LABELS, source)
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    source = write_nifti(tmp_path / "scan.nii")
    labels: Any
    for labels, named in ((LABELS[:-1], r"\(4, 6, 7\)"), (LABELS.astype(np.int64), "int64")):
        with pytest.raises(GeometryInvalid, match=rf"{named}.*uint8 \(5, 6, 7\)"):
            write_labelmap(tmp_path / "labels.nii", labels, source)
    with pytest.raises(MalformedRequest, match=r"\.nii\.gz"):
        write_labelmap(tmp_path / "labels.dcm", LABELS, source)
    (tmp_path / "text.nii").write_text("no scan")
    with pytest.raises(NotAVolume, match="is text"):
        write_labelmap(tmp_path / "labels.nii", LABELS, tmp_path / "text.nii")
    assert {path.name for path in tmp_path.iterdir()} == {"scan.nii", "text.nii"}


def test_an_origin_that_nifti_cannot_say(tmp_path: Path) -> None:
    source = write_mha(tmp_path / "scan.mha", Offset="1e39 0 0")
    with pytest.raises(GeometryInvalid, match="not finite"):
        write_labelmap(tmp_path / "labels.nii", LABELS, source)
    write_labelmap(tmp_path / "labels.nrrd", LABELS, source)
    np.testing.assert_array_equal(read_header(tmp_path / "labels.nrrd").affine, read_header(source).affine)


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_nifti(tmp_path / "scan.nii")
    (tmp_path / "labels.nii").write_bytes(b"earlier")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match="No space left"):
        write_labelmap(tmp_path / "labels.nii", LABELS, source)
    assert (tmp_path / "labels.nii").read_bytes() == b"earlier"
    assert {path.name for path in tmp_path.iterdir()} == {"scan.nii", "labels.nii"}


def test_the_source_may_be_replaced_by_its_labels(tmp_path: Path) -> None:
    source = write_nifti(tmp_path / "scan.nii.gz")
    write_labelmap(source, LABELS, source)
    np.testing.assert_array_equal(read_volume(source).data, LABELS)


def test_volumes_are_counted_on_the_scans_own_grid() -> None:
    labels = [Label(value=value, name=name) for value, name in enumerate(["background", "a", "b", "c"])]
    segmented = np.array([[[0, 1, 1, 2]]], np.uint8)
    assert volumes_ml(segmented, (10.0, 5.0, 2.0), labels) == pytest.approx({"a": 0.2, "b": 0.1, "c": 0.0})
