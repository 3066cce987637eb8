"""Where segmentations lie: every voxel over its source, on the very same frames."""

import itertools
import os
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from tests.fixtures.dicom_files import enhanced, position, series, zipped
from tests.fixtures.dicom_results import (
    LABELS,
    SHAPE,
    Source,
    complaints,
    frames_by_source,
    labels_ras,
    positions_lps,
    provenance,
    results,
    scan_of,
)
from tests.fixtures.volume_files import affine_ras, phantom, reoriented
from unet_factory.domain.segmentation_parameters import SegmentationType
from unet_factory.volume import read_header
from unet_factory.volume.dicom import pack_series, read_series
from unet_factory_worker.dicom_results import write_dicom_results

ORIENTATIONS = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
VOLUMES_ML = {label.name: 1.0 for label in LABELS if label.value}


@pytest.mark.parametrize(("kind", "seg_type"), [("single", "binary"), ("single", "labelmap"), ("enhanced", "binary")])
@pytest.mark.parametrize(("rotation_deg", "flip"), [(0, 1), (25, -1)])
@pytest.mark.parametrize("plane", ORIENTATIONS)
def test_every_voxel_comes_back_over_its_source(
    tmp_path: Path, plane: str, flip: int, rotation_deg: float, kind: str, seg_type: SegmentationType
) -> None:
    axes, flips = ORIENTATIONS[plane], (1, -1, flip)
    voxels, affine = reoriented(phantom(), affine_ras(rotation_deg), axes, flips)
    labels, _ = reoriented(labels_ras(), affine_ras(rotation_deg), axes, flips)  # (column, row, slice)
    scan, sources = (_enhanced if kind == "enhanced" else _single)(voxels, affine)
    seg = results(tmp_path, scan, labels_ras(), seg_type)["seg.dcm"]

    decoded = frames_by_source(seg)
    filled = [source for k, source in enumerate(sources) if labels[:, :, k].any()]
    assert decoded.keys() == set(filled)
    assert len(filled) < len(sources), "frames without labels are left out"
    for k, source in enumerate(sources):
        np.testing.assert_array_equal(decoded.get(source, np.zeros_like(labels[:, :, k].T)), labels[:, :, k].T)
    positions = positions_lps(seg)
    for k, source in enumerate(sources):
        assert positions.get(source, position(affine, k)) == position(affine, k), "on the very same frames"
    np.testing.assert_array_equal(_by_highdicom(seg, read_header(tmp_path / "scan.zip").affine), labels_ras())


def _single(voxels: NDArray[Any], affine: NDArray[np.float64]) -> tuple[list[Dataset], list[Source]]:
    """Shuffled images, and the name of each slice in the order of ``voxels``."""
    scan = series(voxels, affine)
    sources: list[Source] = [(str(one.SOPInstanceUID), None) for one in scan]
    return [scan[k] for k in _shuffled(len(scan))], sources


def _enhanced(voxels: NDArray[Any], affine: NDArray[np.float64]) -> tuple[list[Dataset], list[Source]]:
    order = _shuffled(voxels.shape[2])
    scan = enhanced(voxels, affine, order)
    return [scan], [(str(scan.SOPInstanceUID), order.index(k) + 1) for k in range(len(order))]


def _shuffled(count: int) -> list[int]:
    return [int(k) for k in np.random.default_rng(2).permutation(count)]


def _by_highdicom(seg: Path, affine: NDArray[np.float64]) -> NDArray[Any]:
    """The label map (r, a, s) as highdicom places it in space, on the grid of ``affine``, which it is not told."""
    read = highdicom.seg.segread(seg)
    numbers = {int(part.SegmentNumber): str(part.SegmentLabel) for part in read.SegmentSequence}
    values = {label.name: label.value for label in LABELS}
    volume = read.get_volume(combine_segments=True, skip_overlap_checks=True, allow_missing_positions=True)
    of_number = np.array([values.get(numbers.get(number, ""), 0) for number in range(max(numbers) + 1)], np.uint8)
    slices = of_number[volume.array]
    placed = np.zeros(SHAPE, np.uint8)
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    home = np.linalg.inv(_affine_of_ras_grid(affine)) @ to_ras
    for index in itertools.product(*map(range, slices.shape)):
        if slices[index]:
            spot = home @ [*index, 1]
            np.testing.assert_allclose(spot, np.round(spot), atol=1e-3)
            placed[tuple(np.round(spot[:3]).astype(int))] = slices[index]
    return placed


def _affine_of_ras_grid(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """``affine`` of the scan's own axes, for the same voxels along RAS+."""
    shape_own = nibabel.orientations.io_orientation(affine)
    own = [SHAPE[int(axis)] for axis in shape_own[:, 0]]
    ras: NDArray[np.float64] = affine @ nibabel.orientations.inv_ornt_aff(shape_own, own)
    return ras


def test_a_series_of_several_enhanced_objects(tmp_path: Path) -> None:
    voxels, affine = reoriented(phantom(), affine_ras(25), (0, 1, 2), (-1, -1, 1))
    labels, _ = reoriented(labels_ras(), affine_ras(25), (0, 1, 2), (-1, -1, 1))
    halves = [enhanced(voxels, affine, order) for order in ([4, 0, 2, 6], [5, 1, 3])]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(halves[1], keyword, getattr(halves[0], keyword))
    seg = results(tmp_path, halves, labels_ras())["seg.dcm"]
    decoded = frames_by_source(seg)
    for half, order in zip(halves, ([4, 0, 2, 6], [5, 1, 3]), strict=True):
        for frame, k in enumerate(order, 1):
            found = decoded.get((str(half.SOPInstanceUID), frame), np.zeros_like(labels[:, :, k].T))
            np.testing.assert_array_equal(found, labels[:, :, k].T)
    assert complaints(seg) == []


def test_a_given_spacing_leaves_the_frames_where_they_are(tmp_path: Path) -> None:
    scan = scan_of()
    path = zipped(scan, tmp_path / "scan.zip")
    given = read_series(path, spacing_ras_mm=(9.0, 9.0, 9.0))
    write_dicom_results(tmp_path, labels_ras(), VOLUMES_ML, given, provenance())
    by_uid = {str(one.SOPInstanceUID): one for one in scan}
    for (uid, _), found in positions_lps(tmp_path / "seg.dcm").items():
        assert found == [float(mm) for mm in by_uid[uid].ImagePositionPatient]
    rows_mm, columns_mm, slices_mm = _measures(tmp_path / "seg.dcm")
    assert (rows_mm, columns_mm) == tuple(float(mm) for mm in scan[0].PixelSpacing)
    assert slices_mm == pytest.approx(read_header(path).spacing_ras_mm[2])


def test_what_the_scan_lacks_comes_from_the_caller_or_from_its_series(tmp_path: Path) -> None:
    scan = scan_of()
    for one in scan:
        del one.PixelSpacing, one.FrameOfReferenceUID, one.SliceThickness
    given = read_series(zipped(scan, tmp_path / "scan.zip"), spacing_ras_mm=(2.0, 2.0, 4.0))
    frames = set()
    for job_id in ("0" * 32, "1" * 32):
        write_dicom_results(tmp_path, labels_ras(), VOLUMES_ML, given, provenance(job_id))
        frames.add(str(dcmread(tmp_path / "seg.dcm").FrameOfReferenceUID))
        assert _measures(tmp_path / "seg.dcm")[:2] == (2.0, 2.0)
        assert complaints(tmp_path / "seg.dcm") == []
    assert len(frames) == 1, "results of one scan lie in one frame of reference"


@pytest.mark.skipif("UNET_FACTORY_DATA" not in os.environ, reason="UNET_FACTORY_DATA names no folder of data sets")
def test_slices_lie_as_far_apart_as_their_positions(tmp_path: Path) -> None:
    """Oblique, 6.5 mm apart although SliceThickness says 5."""
    folder = Path(os.environ["UNET_FACTORY_DATA"]) / "dicom" / "PGBM-002_T1post"
    pack_series(sorted(folder.glob("*.dcm")), tmp_path / "scan.zip")
    header = read_header(tmp_path / "scan.zip")
    labels = np.zeros(header.shape_ras, np.uint8)
    labels[100:120, 90:130, 5:9] = labels_ras((20, 40, 4), 2)
    seg = results(tmp_path, tmp_path / "scan.zip", labels)["seg.dcm"]
    assert _measures(seg)[2] == pytest.approx(6.5, abs=1e-3)
    assert float(dcmread(next(folder.glob("*.dcm"))).SliceThickness) == 5
    placed = {str(one.SOPInstanceUID): one for one in map(dcmread, folder.glob("*.dcm"))}
    found = positions_lps(seg)
    assert len(found) == 4 - 1
    for (uid, _), position_lps in found.items():
        assert position_lps == [float(mm) for mm in placed[uid].ImagePositionPatient]


def _measures(seg: Path) -> tuple[float, float, float]:
    """mm between rows, columns and slices."""
    (measures,) = dcmread(seg).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    rows_mm, columns_mm = (float(mm) for mm in measures.PixelSpacing)
    assert measures.SliceThickness == measures.SpacingBetweenSlices
    return rows_mm, columns_mm, float(measures.SpacingBetweenSlices)
