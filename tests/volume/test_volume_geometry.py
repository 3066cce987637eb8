"""Which spacing is believed, and which contradictions are put to the sender."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from tests.fixtures.volume_files import (
    SPACING_RAS_MM,
    affine_ras,
    load_itk,
    load_nifti,
    phantom,
    write_mha,
    write_nifti,
    write_nrrd,
    write_volume,
)
from unet_factory.domain.errors import FactoryError, GeometryInvalid, SpacingAmbiguous, SpacingInvalid
from unet_factory.volume import read_header, read_volume, write_labelmap

NAN = float("nan")
UNIT_SROW = (-1.0, 0, 0, 5, 0, -1, 0, 6, 0, 0, 1, 7)  # L, P, S at 1 mm, as in ACDC
ACDC_PIXDIM = (1.0, 1.5, 1.25, 10, 1, 1, 1, 1)


def srow(*columns: tuple[float, float, float]) -> tuple[float, ...]:
    return tuple(value for row in zip(*columns, (0, 0, 0), strict=True) for value in row)


def test_a_contradictory_header_is_ambiguous_and_both_readings_are_named(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii", codes=(0, 2), srow=UNIT_SROW, pixdim=ACDC_PIXDIM)
    with pytest.raises(SpacingAmbiguous, match=r"sform says 1 x 1 x 1 mm but pixdim says 1.5 x 1.25 x 10 mm") as caught:
        read_header(path)
    assert caught.value.details["affine_mm"] == [1, 1, 1]
    assert caught.value.details["declared_mm"] == [1.5, 1.25, 10]
    with pytest.raises(SpacingAmbiguous):
        read_volume(path)


def test_a_given_spacing_settles_it_along_the_directions_of_the_file(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii", codes=(0, 2), srow=UNIT_SROW, pixdim=ACDC_PIXDIM)
    volume = read_volume(path, spacing_ras_mm=(1.5, 1.25, 10))
    assert volume.spacing_ras_mm == volume.header.spacing_ras_mm == (1.5, 1.25, 10)
    assert volume.header.orientation == "LPS"
    np.testing.assert_array_equal(volume.data, phantom()[::-1, ::-1])
    np.testing.assert_array_equal(volume.header.affine[:3], [[-1.5, 0, 0, 5], [0, -1.25, 0, 6], [0, 0, 10, 7]])


def test_readings_are_named_in_ras_order(tmp_path: Path) -> None:
    turned = srow((0, 0, 1), (1, 0, 0), (0, 1, 0))  # the file's axes are S, R, A
    path = write_nifti(tmp_path / "scan.nii", codes=(0, 1), srow=turned, pixdim=(1, 30, 10, 20, 1, 1, 1, 1))
    with pytest.raises(SpacingAmbiguous, match="pixdim says 10 x 20 x 30"):
        read_header(path)
    header = read_header(path, spacing_ras_mm=(10, 20, 30))
    np.testing.assert_array_equal(np.linalg.norm(header.affine[:3, :3], axis=0), (30, 10, 20))


def test_sform_and_qform_that_disagree(tmp_path: Path) -> None:
    doubled = srow((1.5, 0, 0), (0, 3, 0), (0, 0, 6.5))
    path = write_nifti(tmp_path / "scan.nii", codes=(1, 4), srow=doubled)
    with pytest.raises(SpacingAmbiguous, match=r"1.5 x 3 x 6.5 mm but pixdim says 0.75 x 1.5 x 3.25"):
        read_header(path)


@pytest.mark.parametrize(("factor", "ambiguous"), [(1 + 5e-4, False), (1 + 2e-3, True), (1 - 2e-3, True)])
def test_rounding_is_no_contradiction(tmp_path: Path, factor: float, ambiguous: bool) -> None:
    pixdim = (1.0, 0.75 * factor, 1.5, 3.25, 1, 1, 1, 1)
    path = write_nifti(tmp_path / "scan.nii", codes=(0, 1), pixdim=pixdim)
    if ambiguous:
        with pytest.raises(SpacingAmbiguous):
            read_header(path)
    else:
        assert read_header(path).spacing_ras_mm == SPACING_RAS_MM


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1), (1, 1), (0, 99), (-3, 0)])
def test_the_affine_is_the_one_that_nibabel_takes(tmp_path: Path, codes: tuple[int, int]) -> None:
    path = write_nifti(tmp_path / "scan.nii", codes=codes, quatern=(0.1, 0.2, 0.3))
    image = load_nifti(path)
    header = read_header(path)
    np.testing.assert_array_equal(header.affine, image.affine)
    assert header.orientation == "".join(nib.aff2axcodes(image.affine))
    assert sorted(header.spacing_ras_mm) == pytest.approx(SPACING_RAS_MM)


@pytest.mark.parametrize(("unit", "mm"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (2 + 8, 1), (3 + 16, 0.001)])
def test_units(tmp_path: Path, unit: int, mm: float) -> None:
    stored = np.array(SPACING_RAS_MM) / mm
    path = write_nifti(
        tmp_path / "scan.nii",
        codes=(0, 1),
        xyzt_units=unit,
        pixdim=(1, *stored, 1, 1, 1, 1),
        srow=srow((stored[0], 0, 0), (0, stored[1], 0), (0, 0, stored[2])),
    )
    assert read_header(path).spacing_ras_mm == pytest.approx(SPACING_RAS_MM, rel=1e-6)


@pytest.mark.parametrize(
    ("lengths", "named"),
    [((0, 1.5, 3.25), "0 x 1.5"), ((0.75, NAN, 3.25), "nan"), ((0.75, 1.5, -3.25), "-3.25"), ((0, 0, 0), "0 x 0 x 0")],
)
@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1)])
def test_a_pixdim_that_is_no_spacing(
    tmp_path: Path, lengths: tuple[float, ...], named: str, codes: tuple[int, int]
) -> None:
    path = write_nifti(tmp_path / "scan.nii", codes=codes, pixdim=(1, *lengths, 1, 1, 1, 1))
    with pytest.raises(SpacingInvalid, match=f"pixdim says .*{named}"):
        read_header(path)
    assert read_volume(path, spacing_ras_mm=(1, 2, 3)).spacing_ras_mm == (1, 2, 3)


@pytest.mark.parametrize("given", [(0.0, 1.0, 1.0), (NAN, 1.0, 1.0), (1.0, 1.0, -1.0), (1e6, 1.0, 1.0)])
def test_a_given_spacing_must_be_one(tmp_path: Path, given: tuple[float, float, float]) -> None:
    with pytest.raises(SpacingInvalid):
        read_header(write_nifti(tmp_path / "scan.nii"), spacing_ras_mm=given)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"codes": (0, 1), "srow": srow((0, 0, 0), (0, 1.5, 0), (0, 0, 3.25))}, "singular"),
        ({"codes": (0, 1), "srow": srow((0.75, 0, 0), (1.5, 0, 0), (0, 0, 3.25))}, "singular"),
        ({"codes": (0, 1), "srow": srow((NAN, 0, 0), (0, 1.5, 0), (0, 0, 3.25))}, "not finite.*nan"),
        ({"codes": (0, 1), "srow": srow((0.75, 0, 0), (0, 1.5, 0), (0, 1, 3.25))}, r"72\.9\d degrees"),
        ({"codes": (1, 0), "quatern": (0.9, 0.9, 0.9)}, "quaternion.*0.9"),
    ],
)
@pytest.mark.parametrize("given", [None, SPACING_RAS_MM])
def test_an_affine_without_three_right_angles(tmp_path: Path, fields: dict[str, Any], named: str, given: Any) -> None:
    path = write_nifti(tmp_path / "scan.nii", **fields)
    with pytest.raises(GeometryInvalid, match=named):
        read_header(path, spacing_ras_mm=given)
    with pytest.raises(GeometryInvalid, match=named):
        write_labelmap(tmp_path / "labels.nii", np.zeros((5, 6, 7), np.uint8), path)
    assert not (tmp_path / "labels.nii").exists()


def test_a_slight_shear_is_rounding(tmp_path: Path) -> None:
    column = (0, 3.25 * np.sin(np.deg2rad(0.9)), 3.25 * np.cos(np.deg2rad(0.9)))
    read_header(write_nifti(tmp_path / "scan.nii", codes=(0, 1), srow=srow((0.75, 0, 0), (0, 1.5, 0), column)))


MHA_SPACINGS: list[tuple[dict[str, Any], type[FactoryError], str]] = [
    ({"ElementSpacing": None}, SpacingInvalid, "no ElementSpacing"),
    ({"ElementSpacing": "0 2 3"}, SpacingInvalid, "0 x 2 x 3"),
    ({"ElementSpacing": "-1 2 3"}, SpacingInvalid, "-1 x 2 x 3"),
    ({"ElementSpacing": "1 nan 3"}, SpacingInvalid, "1 x nan x 3"),
    ({"ElementSpacing": "1 2 inf"}, SpacingInvalid, "1 x 2 x inf"),
    ({"TransformMatrix": "2 0 0 0 1 0 0 0 1"}, SpacingAmbiguous, "2 x 2 x 3 mm but ElementSpacing says 1 x 2 x 3"),
]


@pytest.mark.parametrize(("fields", "error", "named"), MHA_SPACINGS)
def test_mha_spacing(tmp_path: Path, fields: dict[str, Any], error: type[FactoryError], named: str) -> None:
    path = write_mha(tmp_path / "scan.mha", **fields)
    with pytest.raises(error, match=named):
        read_header(path)
    header = read_header(path, spacing_ras_mm=(4, 5, 6))
    np.testing.assert_allclose(np.abs(header.affine[:3, :3]), np.diag((4, 5, 6)))


@pytest.mark.parametrize(
    "fields",
    [{"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, {"TransformMatrix": "nan 0 0 0 1 0 0 0 1"}, {"Offset": "0 0 inf"}],
)
def test_mha_affine(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(GeometryInvalid, match=r"singular|not finite"):
        read_header(write_mha(tmp_path / "scan.mha", **fields))


def test_mha_aliases(tmp_path: Path) -> None:
    names: dict[str, Any] = {"Offset": None, "TransformMatrix": None, "ElementSpacing": None}
    path = write_mha(
        tmp_path / "scan.mha",
        **names,
        Position="7 8 9",
        Rotation="0 1 0 -1 0 0 0 0 1",
        ElementSize="1 2 3",
        ElementDataFile="Local",
    )
    header = read_header(path)
    np.testing.assert_array_equal(header.affine[:3], [[0, 2, 0, -7], [-1, 0, 0, -8], [0, 0, 3, 9]])


NRRD_GEOMETRIES: list[tuple[dict[str, Any], type[FactoryError], str]] = [
    ({"space_directions": None, "space": None}, SpacingInvalid, "no space directions or spacings"),
    ({"space_directions": None, "space": None, "spacings": "1 0 3"}, SpacingInvalid, "1 x 0 x 3"),
    ({"space_directions": "(0,0,0) (0,2,0) (0,0,3)"}, SpacingInvalid, "0 x 2 x 3"),
    ({"space_directions": "(nan,0,0) (0,2,0) (0,0,3)"}, SpacingInvalid, "nan x 2 x 3"),
    ({"space_directions": "(1,0,0) (0,2,0) none"}, GeometryInvalid, "each spatial axis needs one"),
    ({"space_directions": "(1,0,0) (1,2,0) (0,0,3)"}, GeometryInvalid, "63.43 degrees"),
    ({"space": "scanner-xyz"}, GeometryInvalid, "scanner-xyz"),
    (
        {"space": "left-posterior-superior-time"},
        GeometryInvalid,
        r"space a text of 28 characters .*needed is one of left-posterior-superior",
    ),
    ({"space_units": '"m" "m" "m"'}, SpacingInvalid, "space units are 'm m m'; mm is needed"),
    ({"space_units": '"mm" "mm" "um"'}, SpacingInvalid, "space units are 'mm mm um'; mm is needed"),
    (
        {"space_directions": None, "space": None, "spacings": "1 2 3", "units": '"um" "um" "um"'},
        SpacingInvalid,
        "units are 'um um um'; mm is needed",
    ),
    ({"spacings": "1 2 4"}, SpacingAmbiguous, "says 1 x 2 x 3 mm but .* says 1 x 2 x 4 mm"),
    (
        {
            **{"dimension": "4", "sizes": "5 6 7 1", "kinds": "domain domain domain domain"},
            **{"space": None, "space_dimension": "4", "space_directions": "(1,0,0,9) (0,2,0,0) (0,0,3,0) (0,0,0,1)"},
        },
        GeometryInvalid,
        "fourth axis",
    ),
]


@pytest.mark.parametrize(("fields", "error", "named"), NRRD_GEOMETRIES)
def test_nrrd_geometry(tmp_path: Path, fields: dict[str, Any], error: type[FactoryError], named: str) -> None:
    with pytest.raises(error, match=named):
        read_header(write_nrrd(tmp_path / "scan.nrrd", **fields))


@pytest.mark.parametrize(
    ("space", "orientation", "origin"),
    [
        ("left-posterior-superior", "LPS", (-7, -8, 9)),
        ("RAS", "RAS", (7, 8, 9)),
        ("left-anterior-superior", "LAS", (-7, 8, 9)),
    ],
)
def test_nrrd_spaces(tmp_path: Path, space: str, orientation: str, origin: tuple[float, ...]) -> None:
    header = read_header(write_nrrd(tmp_path / "scan.nrrd", space=space, space_origin="(7,8,9)"))
    assert header.orientation == orientation
    assert header.spacing_ras_mm == (1, 2, 3)
    assert tuple(header.affine[:3, 3]) == origin


@pytest.mark.parametrize(
    "fields",
    [
        {"spacings": "nan nan nan"},
        {"spacings": "1 2 3", "units": '"mm" "mm" "mm"'},
        {"space_directions": None, "space": None, "spacings": "1 2 3", "units": '"" "mm" "millimeter"'},
        {
            **{"dimension": "4", "sizes": "5 6 7 1", "kinds": "domain domain domain time"},
            **{"space_directions": None, "space": None, "spacings": "1 2 3 0.5", "units": "mm mm mm ms"},
        },
    ],
)
def test_statements_of_an_nrrd_that_agree(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert read_header(write_nrrd(tmp_path / "scan.nrrd", **fields)).spacing_ras_mm == (1, 2, 3)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_one_volume_of_a_series_that_itk_has_joined(tmp_path: Path, suffix: str) -> None:
    scan = load_itk(write_volume(tmp_path / "scan.nii.gz", phantom(), affine_ras(0)))
    sitk.WriteImage(sitk.JoinSeries([scan]), str(tmp_path / f"joined{suffix}"))
    found = read_volume(tmp_path / f"joined{suffix}")
    np.testing.assert_array_equal(found.data, phantom())
    np.testing.assert_allclose(found.spacing_ras_mm, SPACING_RAS_MM)


def test_a_nifti_without_an_orientation_says_so(tmp_path: Path) -> None:
    assert "left, anterior and superior" in read_header(write_nifti(tmp_path / "scan.nii", codes=(0, 0))).notes[0]
    assert read_header(write_nifti(tmp_path / "scan.nii", codes=(1, 0))).notes == ()


@pytest.mark.parametrize("unit", ["um", "cm"])
def test_an_mha_in_another_unit(tmp_path: Path, unit: str) -> None:
    with pytest.raises(SpacingInvalid, match=f"DistanceUnits is '{unit}'; mm is needed"):
        read_header(write_mha(tmp_path / "scan.mha", DistanceUnits=unit))
    assert read_header(write_mha(tmp_path / "scan.mha", DistanceUnits="mm")).spacing_ras_mm == (1, 2, 3)


def test_nrrd_without_a_space_is_read_as_itk_does(tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "scan.nrrd", space=None, space_directions=None, spacings="1 2 3")
    assert read_header(path).orientation == "LPS"
    np.testing.assert_array_equal(read_header(path, spacing_ras_mm=(4, 5, 6)).affine[:3, :3], np.diag((-4, -5, 6)))


def test_a_rotated_scan_keeps_its_spacing(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(phantom(), affine_ras(33)), tmp_path / "scan.nii")
    assert read_header(tmp_path / "scan.nii").spacing_ras_mm == pytest.approx(SPACING_RAS_MM, rel=1e-6)


@pytest.mark.parametrize("excess", [0.0, 4.7e-7, 9e-7, 9e-6])
@pytest.mark.parametrize("axis", [(0.0, 0.70710678, 0.70710678), (0.36, 0.48, 0.8), (1.0, 0.0, 0.0)])
def test_a_quaternion_too_long_by_rounding_is_a_half_turn(
    tmp_path: Path, axis: tuple[float, float, float], excess: float
) -> None:
    """As nifti1_io reads it: a is 0, and b, c and d get the length 1."""
    b, c, d = (part * (1 + excess) ** 0.5 for part in axis)
    path = write_nifti(tmp_path / "scan.nii", codes=(1, 0), quatern=(b, c, d))
    unit = np.array(axis) / np.linalg.norm(axis)
    half_turn = 2 * np.outer(unit, unit) - np.eye(3)
    affine = read_header(path).affine[:3, :3]
    directions = affine / np.linalg.norm(affine, axis=0)
    np.testing.assert_allclose(np.abs(directions), np.abs(half_turn), atol=1e-3)


def test_a_quaternion_longer_than_rounding_is_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii", codes=(1, 0), quatern=(0.0, 1.001, 0.0))
    with pytest.raises(GeometryInvalid, match="not a rotation"):
        read_header(path)


@pytest.mark.parametrize("sform_code", [1, 4])
def test_the_qform_stands_in_for_an_sform_of_zeros(tmp_path: Path, sform_code: int) -> None:
    path = write_nifti(tmp_path / "scan.nii", codes=(1, sform_code), srow=(0.0,) * 12)
    header = read_header(path)
    assert header.notes == (f"the sform is all zeros, although its code is {sform_code}; the qform is used instead",)
    image = load_itk(path)
    lps = np.array([[-1.0], [-1.0], [1.0]])
    itk = lps * (np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing()))
    np.testing.assert_allclose(header.affine[:3, :3], itk, atol=1e-6)
    np.testing.assert_allclose(header.affine[:3, 3], lps[:, 0] * image.GetOrigin(), atol=1e-6)
    write_labelmap(tmp_path / "labels.nii", np.zeros(header.shape, np.uint8), path)
    assert load_itk(tmp_path / "labels.nii").GetDirection() == image.GetDirection()


def test_an_sform_of_zeros_alone_is_named(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii", codes=(0, 2), srow=(0.0,) * 12)
    with pytest.raises(GeometryInvalid, match=r"the sform is all zeros, although its code is 2, and there is no qform"):
        read_header(path)
