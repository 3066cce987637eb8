"""Series that are no plain volume: each is told by its own error, with the slices and the numbers, or by a note."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.fixtures.dicom_files import PATIENT, enhanced, no_image, orientation, position, series, zipped
from tests.fixtures.volume_files import affine_ras, phantom
from unet_factory.domain.errors import (
    FactoryError,
    GeometryInvalid,
    NotAVolume,
    SeriesMixed,
    SlicesAmbiguous,
    SlicesInconsistent,
    SlicesIrregular,
    SlicesMissing,
    SlicesTilted,
    SpacingInvalid,
)
from unet_factory.volume import read_header, read_volume
from unet_factory.volume.dicom import read_series

AFFINE = affine_ras()  # slices along S, 3.25 mm apart, the first at 100 mm
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
REPORT = "1.2.840.10008.5.1.4.1.1.88.34"
DIRECTORY = "1.2.840.10008.1.3.10"

Build = Callable[[], list[Dataset]]


def scan(**attributes: Any) -> list[Dataset]:
    return series(phantom(), AFFINE, **attributes)


def moved(k: int, *, by: float = 0, sideways_mm: float = 0) -> list[Dataset]:
    """Slice ``k`` shifted ``by`` slices along the normal, or sideways."""
    slices = scan()
    x, y, z = position(AFFINE, k + by)
    slices[k].ImagePositionPatient = [x + sideways_mm, y, z]
    return slices


def changed(k: int, keyword: str, value: Any) -> list[Dataset]:
    slices = scan()
    if value is None:
        delattr(slices[k], keyword)
    else:
        setattr(slices[k], keyword, value)
    return slices


def all_changed(**attributes: Any) -> list[Dataset]:
    slices = scan()
    for one in slices:
        for keyword, value in attributes.items():
            setattr(one, keyword, value)
    return slices


def again(slices: list[Dataset], **attributes: Any) -> list[Dataset]:
    """The slices, and the same once more as other objects of the same series."""
    second = series(phantom() + 1, AFFINE, **attributes)
    for one in second:
        one.StudyInstanceUID, one.SeriesInstanceUID = slices[0].StudyInstanceUID, slices[0].SeriesInstanceUID
        one.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
        one.InstanceNumber += len(slices)
    return [*slices, *second]


def tilted(deg: float) -> list[Dataset]:
    slices = scan()
    for k, one in enumerate(slices):
        one.ImagePositionPatient[1] += k * 3.25 * np.tan(np.deg2rad(deg))
    return slices


def recopied(**attributes: Any) -> list[Dataset]:
    """The first slice sent twice under one identity."""
    slices = scan()
    copy = deepcopy(slices[0])
    for keyword, value in attributes.items():
        setattr(copy, keyword, value)
    return [*slices, copy]


def frames_twice() -> list[Dataset]:
    scanned = enhanced(phantom(), AFFINE, [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6])
    for index, frame in enumerate(scanned.PerFrameFunctionalGroupsSequence):
        frame.FrameContentSequence[0].TemporalPositionIndex = 1 + index // 7
    return [scanned]


def with_frames(stated: int) -> Dataset:
    scanned = enhanced(phantom(), AFFINE)
    scanned.NumberOfFrames = stated
    scanned.PixelData = scanned.PixelData[: 60 * stated]
    return scanned


def set_rows(one: Dataset, rows: int) -> Dataset:
    one.Rows, one.PixelData = rows, one.PixelData[: 10 * rows]
    return one


def frames_of_echoes() -> list[Dataset]:
    """Both in one object, the second echo first; its values are others."""
    voxels = np.concatenate([phantom() + 1, phantom()], axis=2)
    scanned = enhanced(voxels, AFFINE)
    for index, frame in enumerate(scanned.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = position(AFFINE, index % 7)
        echo = Dataset()
        echo.EffectiveEchoTime = 12.5 if index < 7 else 4.5
        frame.MREchoSequence = [echo]
    return [scanned]


def in_two_objects() -> list[Dataset]:
    """As a scanner splits what gets too large for one object (a concatenation)."""
    first, second = enhanced(phantom()[:, :, :4], AFFINE), enhanced(phantom()[:, :, 4:], AFFINE)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(second, keyword, first[keyword].value)
    second.InstanceNumber = 2
    for k, frame in enumerate(second.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = position(AFFINE, k + 4)
    return [second, first]


OTHER_VIEW = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]

REFUSED: dict[str, tuple[Build, type[FactoryError], tuple[str, ...]]] = {
    "two series": (lambda: [*scan(), *scan()[:3]], SeriesMixed, ("2 series", "7 MR", "3 MR", "series_uid")),
    "a localizer of another series": (lambda: [*scan(), *scan()[:1]], SeriesMixed, ("7 MR; 1 MR",)),
    "another orientation": (
        lambda: changed(2, "ImageOrientationPatient", OTHER_VIEW),
        SlicesInconsistent,
        ("2 orientations", "6 slices", "1 slice", "image 3"),
    ),
    "another size": (
        lambda: [*(slices := scan())[:2], set_rows(slices[2], 5), *slices[3:]],
        SlicesInconsistent,
        ("5 x 6: 6 slices", "5 x 5: 1 slice", "image 3"),
    ),
    "another pixel spacing": (
        lambda: changed(2, "PixelSpacing", [1, 1]),
        SlicesInconsistent,
        ("0.75 x 1.5", "1 x 1: 1 slice", "image 3"),
    ),
    "another frame of reference": (
        lambda: changed(2, "FrameOfReferenceUID", generate_uid()),
        SlicesInconsistent,
        ("2 frames of reference", "image 3"),
    ),
    "another patient": (
        lambda: changed(2, "PatientID", "SOMEBODY ELSE"),
        SlicesInconsistent,
        ("2 patients", "6 slices", "1 slice, such as image 3"),
    ),
    "another study": (
        lambda: changed(2, "StudyInstanceUID", generate_uid()),
        SlicesInconsistent,
        ("2 studies", "image 3"),
    ),
    "points in time": (
        lambda: again(scan(TemporalPositionIdentifier=1), TemporalPositionIdentifier=2),
        SlicesAmbiguous,
        ("7 of 7 places", "2 temporal positions", "100.00 mm: image 1, image 8"),
    ),
    "b-values": (
        lambda: again(scan(DiffusionBValue=0.0), DiffusionBValue=1000.0),
        SlicesAmbiguous,
        ("7 of 7", "2 b-values"),
    ),
    "magnitude and phase": (
        lambda: again(scan(), ImageType=["ORIGINAL", "PRIMARY", "P"]),
        SlicesAmbiguous,
        ("2 image types",),
    ),
    "phases of the heart": (
        lambda: again(scan(TriggerTime=0), TriggerTime=40),
        SlicesAmbiguous,
        ("2 trigger times",),
    ),
    "acquisitions": (
        lambda: again(scan(AcquisitionNumber=1), AcquisitionNumber=2),
        SlicesAmbiguous,
        ("2 acquisitions",),
    ),
    "a mosaic": (
        lambda: scan(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])[:1],
        GeometryInvalid,
        ("image 1 is a mosaic",),
    ),
    "frames that are not all described": (lambda: [with_frames(6)], NotAVolume, ("6 frames", "describes 7")),
    "a directory alone": (lambda: [no_image("", DIRECTORY)], NotAVolume, ("a directory",)),
    "the same place for no reason": (lambda: again(scan()), SlicesAmbiguous, ("nothing in their headers",)),
    "one slice twice": (
        lambda: again(scan())[:8],
        SlicesAmbiguous,
        ("1 of 7 places", "image 1, image 8"),
    ),
    "frames at points in time": (frames_twice, SlicesAmbiguous, ("2 temporal positions", "frame 1 of image 1")),
    "echoes of which one is incomplete": (
        lambda: again(scan(EchoTime=10), EchoTime=20)[:-1],
        SlicesAmbiguous,
        ("6 of 7 places", "2 echo times"),
    ),
    "an identity twice": (
        lambda: recopied(PixelData=bytes(60)),
        SlicesInconsistent,
        ("image 1", "2 times", "identity"),
    ),
    "a missing slice": (
        lambda: [one for k, one in enumerate(scan()) if k != 3],
        SlicesMissing,
        ("1 slice", "3.25 mm", "1 between image 3 at 106.50 mm and image 5 at 113.00 mm"),
    ),
    "missing slices": (
        lambda: [scan_ for k, scan_ in enumerate(scan()) if k not in (1, 4, 5)],
        SlicesMissing,
        ("3 slices", "1 between image 1", "2 between image 4"),
    ),
    "an uneven gap": (
        lambda: moved(3, by=0.3),
        SlicesIrregular,
        ("2.275 to 4.225 mm", "image 4 at 110.72 mm", "30.0%", "2%"),
    ),
    "gaps too uneven to tolerate, and none missing": (
        lambda: moved(3, by=0.04),
        SlicesIrregular,
        ("3.120 to 3.380 mm", "image 4 at 109.88 mm", "4.0%"),
    ),
    "a slice beside the others": (lambda: moved(3, sideways_mm=0.5), SlicesIrregular, ("image 4", "0.500 mm", "0.075")),
    "a tilted gantry": (lambda: tilted(15), SlicesTilted, ("15.00 degrees", "3.250 mm", "0.871 mm sideways")),
    "a single slice": (lambda: scan()[:1], SpacingInvalid, ("one slice", "image 1", "give the spacing")),
    "no position": (lambda: changed(2, "ImagePositionPatient", None), GeometryInvalid, ("image 3", "Position")),
    "an empty position": (lambda: changed(2, "ImagePositionPatient", []), GeometryInvalid, ("image 3", "Position")),
    "no orientation": (
        lambda: changed(2, "ImageOrientationPatient", None),
        GeometryInvalid,
        ("image 3", "Orientation"),
    ),
    "an orientation that is none": (
        lambda: changed(2, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
        GeometryInvalid,
        ("image 3", "right angle"),
    ),
    "no pixel spacing": (lambda: scan(PixelSpacing=None), SpacingInvalid, ("no PixelSpacing",)),
    "a pixel spacing of zero": (lambda: scan(PixelSpacing=[0, 1]), SpacingInvalid, ("1 x 0 x 3.25",)),
    "a pixel spacing that is no number": (lambda: scan(PixelSpacing=[1, float("nan")]), SpacingInvalid, ("nan",)),
    "frames without positions": (lambda: scan(NumberOfFrames=2)[:1], NotAVolume, ("truncated", "120 bytes")),
    "colours": (
        lambda: all_changed(SamplesPerPixel=3, PhotometricInterpretation="RGB"),
        NotAVolume,
        ("image 1", "3 samples", "MONOCHROME2"),
    ),
    "a palette": (lambda: all_changed(PhotometricInterpretation="PALETTE COLOR"), NotAVolume, ("colours",)),
    "a segmentation alone": (lambda: [no_image("SEG", SEGMENTATION)], NotAVolume, ("no image", "1 SEG")),
    "a report alone": (lambda: [no_image("SR", REPORT)], NotAVolume, ("no image", "1 SR")),
    "a modality that may be a name": (lambda: [no_image(PATIENT, REPORT)], NotAVolume, ("1 other",)),
}


@pytest.mark.parametrize("trap", REFUSED)
def test_a_trap_is_named(tmp_path: Path, trap: str) -> None:
    build, error, named = REFUSED[trap]
    path = zipped(build(), tmp_path / "a.zip")
    with pytest.raises(FactoryError) as caught:
        read_header(path)
    assert type(caught.value) is error
    assert [part for part in named if part not in str(caught.value)] == [], str(caught.value)
    told = str(caught.value) + repr(caught.value.details)
    assert PATIENT not in told
    assert "1.2.826" not in told, "no UIDs"


NOTED: dict[str, tuple[Build, str]] = {
    "nothing to note": (scan, ""),
    "echoes": (
        lambda: again(scan(EchoTime=10, EchoNumbers=1), EchoTime=20, EchoNumbers=2),
        "first of 2 echoes (echo time 10 ms)",
    ),
    "echoes, the first sent last": (
        lambda: again(scan(EchoTime=10), EchoTime=20)[::-1],
        "first of 2 echoes (echo time 10 ms)",
    ),
    "frames of echoes": (frames_of_echoes, "first of 2 echoes (echo time 4.5 ms)"),
    "enhanced objects in parts": (in_two_objects, ""),
    "jitter": (lambda: moved(3, by=0.015), "up to 1.5% of the gap of 3.25 mm"),
    "a copy": (recopied, "1 image sent twice"),
    "a localizer in the series": (
        lambda: [*(slices := scan()), localizer(slices)],
        "1 image marked as localizer",
    ),
    "no images among them": (
        lambda: [no_image("SR", REPORT), no_image("SEG", LABEL_MAP_SEGMENTATION), *scan()],
        "2 DICOM objects other than images",
    ),
    "a directory": (lambda: [no_image("", DIRECTORY), *scan()], ""),
}


def localizer(slices: list[Dataset]) -> Dataset:
    (one,) = scan()[:1]
    one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    one.SeriesInstanceUID, one.ImageOrientationPatient = slices[0].SeriesInstanceUID, OTHER_VIEW
    return one


@pytest.mark.parametrize("case", NOTED)
def test_what_is_chosen_or_tolerated_is_noted(tmp_path: Path, case: str) -> None:
    build, note = NOTED[case]
    volume = read_volume(zipped(build(), tmp_path / "a.zip"))
    np.testing.assert_array_equal(volume.data, phantom())
    assert len(volume.header.notes) == bool(note)
    assert note in "".join(volume.header.notes)


def test_a_named_series_is_chosen(tmp_path: Path) -> None:
    first, second = scan(), series(phantom() + 1, affine_ras(20))
    path = zipped([*first, *second], tmp_path / "a.zip")
    for slices, rotation_deg in ((first, 0), (second, 20)):
        found = read_series(path, series_uid=str(slices[0].SeriesInstanceUID))
        np.testing.assert_allclose(found.header.affine, affine_ras(rotation_deg), atol=1e-5)
        assert found.notes == ("ignored 7 images of other series",)
    with pytest.raises(SeriesMixed, match="7 MR; 7 MR"):
        read_series(path, series_uid="1.2.3")


@pytest.mark.parametrize(
    ("build", "note"),
    [
        (lambda: scan()[:1], ""),
        (lambda: scan(PixelSpacing=None), ""),
        (lambda: [one for k, one in enumerate(scan()) if k != 3], "overrules"),
        (lambda: moved(3, by=0.3), "overrules"),
    ],
)
def test_a_given_spacing_overrules_what_the_positions_say(tmp_path: Path, build: Build, note: str) -> None:
    path = zipped(build(), tmp_path / "a.zip")
    volume = read_volume(path, spacing_ras_mm=(1, 2, 3))
    assert volume.header.spacing_ras_mm == (1, 2, 3)
    assert volume.data.shape[:2] == (5, 6)
    assert note in "".join(volume.header.notes)
    np.testing.assert_allclose(np.linalg.norm(volume.header.affine[:3, :3], axis=0), (1, 2, 3))


@pytest.mark.parametrize("deg", [0.0, 0.4, 0.9])
def test_a_slight_tilt_is_kept_in_the_affine(tmp_path: Path, deg: float) -> None:
    slices = tilted(deg)
    header = read_header(zipped(slices, tmp_path / "a.zip"))
    for k, one in enumerate(slices):
        x, y, z = (float(value) for value in one.ImagePositionPatient)
        np.testing.assert_allclose((header.affine @ [0, 0, k, 1])[:3], (-x, -y, z), atol=1e-6)


def test_orientations_within_rounding_are_one(tmp_path: Path) -> None:
    slices = series(phantom(), affine_ras(20))
    for one in slices[::2]:
        one.ImageOrientationPatient = [round(cosine, 5) for cosine in orientation(affine_ras(20))]
    np.testing.assert_allclose(read_header(zipped(slices, tmp_path / "a.zip")).affine, affine_ras(20), atol=1e-4)
