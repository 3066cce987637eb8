"""The data sets of the paper as their owners distribute them: names, label values and geometries of small trees."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch

from unet_factory.domain.errors import DatasetInvalid
from unet_factory_training.dataset_config import DatasetConfig
from unet_factory_training.datasets import Split, find_subjects, read_scan
from unet_factory_training.datasets.splitting import SplitSizes, split_by_hash

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
AXIAL = np.diag([1.0, 1.0, 1.0])
SAGITTAL = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""LPS directions of axes (i, j, k) that run to posterior, inferior and left: slices last."""
SAGITTAL_SLICES_FIRST = SAGITTAL[:, [2, 0, 1]]

needs_data = pytest.mark.skipif(
    "UNET_FACTORY_DATA" not in os.environ, reason="UNET_FACTORY_DATA, the folder of the full data sets, is not set"
)


def test_brats_is_the_tumour_core_of_t1ce(tmp_path: Path) -> None:
    labels = _striped((8, 6, 4), [0, 1, 2, 4])
    for case in ("BraTS2021_00000", "BraTS2021_00002", "BraTS2021_00003"):
        for sequence in ("flair", "t1", "t1ce", "t2"):
            _save(tmp_path / case / f"{case}_{sequence}.nii.gz", _intensities((8, 6, 4)), (1, 1, 1))
        _save(tmp_path / case / f"{case}_seg.nii.gz", labels, (1, 1, 1))
    config = DatasetConfig(layout="brats", root=str(tmp_path))
    subjects = [subject for split in SPLITS for subject in find_subjects(config, split)]
    assert sorted(subject.name for subject in subjects) == ["BraTS2021_00000", "BraTS2021_00002", "BraTS2021_00003"]
    assert {subject.image.name for subject in subjects} == {f"{subject.name}_t1ce.nii.gz" for subject in subjects}
    scan = read_scan(subjects[0], config)
    assert scan.labels[:4, 0, 0].tolist() == [1, 0, 1, 0], "stored towards the left, read towards the right"
    (tmp_path / subjects[0].name / f"{subjects[0].name}_seg.nii.gz").unlink()
    with pytest.raises(DatasetInvalid, match=r"_seg\.nii\.gz"):
        [find_subjects(config, split) for split in SPLITS]


@pytest.mark.parametrize(
    ("directions", "spacing_mm"),
    [(SAGITTAL, (0.5, 0.6, 4.0)), (SAGITTAL_SLICES_FIRST, (4.0, 0.5, 0.6))],
    ids=["slices last", "slices first"],
)
def test_spider_is_sagittal_t1(tmp_path: Path, directions: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    """Slices of 4 mm lie along the axis from left to right whatever axis of the file that is."""
    values = [0, 1, 9, 25, 100, 101, 125, 201, 210]
    stored = _striped((9, 9, 9), values) if spacing_mm[2] == 4 else _striped((9, 9, 9), values).transpose(1, 0, 2)
    for patient in range(1, 8):
        for sequence in ("t1", "t2", "t2_SPACE"):
            _save(tmp_path / "images" / f"{patient}_{sequence}.mha", _intensities((9, 9, 9)), spacing_mm, directions)
            _save(tmp_path / "masks" / f"{patient}_{sequence}.mha", stored, spacing_mm, directions)
    config = DatasetConfig(layout="spider", root=str(tmp_path))
    names = [subject.name for split in SPLITS for subject in find_subjects(config, split)]
    assert sorted(names) == [f"{patient}_t1" for patient in range(1, 8)]
    scan = read_scan(find_subjects(config, "train")[0], config)
    assert scan.spacing_ras_mm == pytest.approx((4.0, 0.5, 0.6))
    posterior_to_anterior = [0, 0, 0, 0, 2, 1, 1, 1, 0]
    assert scan.labels[0, :, 0].tolist() == posterior_to_anterior


def test_mmwhs_is_seven_structures_of_mr(tmp_path: Path) -> None:
    values = [0, 500, 600, 420, 550, 205, 820, 850, 421]
    for index in range(1001, 1021):
        for kind, voxels in (("image", _intensities((9, 4, 4))), ("label", _striped((9, 4, 4), values))):
            _save(tmp_path / f"mr_train_{index}_{kind}.nii.gz", voxels, (0.9, 0.9, 1.2))
    _save(tmp_path / "mr_test_2001_image.nii.gz", _intensities((9, 4, 4)), (0.9, 0.9, 1.2))
    config = DatasetConfig(layout="mmwhs", root=str(tmp_path))
    found = {split: [subject.name for subject in find_subjects(config, split)] for split in SPLITS}
    assert {split: len(names) for split, names in found.items()} == {"train": 14, "validation": 2, "test": 4}
    assert len(set.union(*map(set, found.values()))) == 20
    assert sorted(found["test"]) == [f"mr_train_{number}" for number in (1005, 1010, 1012, 1014)]
    scan = read_scan(find_subjects(config, "test")[0], config)
    assert scan.labels[:, 0, 0].flip(0).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 3]
    assert scan.spacing_ras_mm == pytest.approx((0.9, 0.9, 1.2))
    ventricle = config.model_copy(update={"label_map": {500: 1, "others": 0}})
    only = read_scan(find_subjects(ventricle, "test")[0], ventricle)
    assert torch.equal(only.labels == 1, scan.labels == 1)
    assert only.labels.max() == 1


def test_splits_json_overrules_the_rule(tmp_path: Path) -> None:
    for index in (1001, 1002):
        for kind in ("image", "label"):
            _save(tmp_path / f"mr_train_{index}_{kind}.nii.gz", _intensities((4, 4, 4)), (1, 1, 1))
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["mr_train_1002"], "test": ["mr_train_1009"]}))
    config = DatasetConfig(layout="mmwhs", root=str(tmp_path))
    assert [subject.name for subject in find_subjects(config, "train")] == ["mr_train_1002"]
    with pytest.raises(DatasetInvalid, match="mr_train_1009"):
        find_subjects(config, "test")
    with pytest.raises(DatasetInvalid, match="holds no labelled scans"):
        find_subjects(DatasetConfig(layout="brats", root=str(tmp_path)), "train")


def test_a_patient_more_leaves_the_splits_apart_and_the_test_split_nearly_as_it_was() -> None:
    sizes = SplitSizes(test=25, validation=25, train=900)
    before, after = (_split_all([f"case{index:05}" for index in range(count)], sizes) for count in (1251, 1252))
    for parts in (before, after):
        assert {split: len(names) for split, names in parts.items()} == {"train": 900, "validation": 25, "test": 25}
        assert not set(parts["train"]) & (set(parts["test"]) | set(parts["validation"]))
        assert not set(parts["validation"]) & set(parts["test"])
    assert len(set(before["test"]) - set(after["test"])) <= 1


@needs_data
def test_real_brats_cases_are_read() -> None:
    config = DatasetConfig(layout="brats", root="$UNET_FACTORY_DATA/brats2021")
    subjects = [subject for split in SPLITS for subject in find_subjects(config, split)]
    assert len(subjects) == 4
    for subject in subjects:
        scan = read_scan(subject, config)
        assert scan.image.shape == scan.labels.shape == (240, 240, 155)
        assert scan.spacing_ras_mm == pytest.approx((1, 1, 1))
        assert scan.labels.unique().tolist() == [0, 1]
        assert float(scan.image[scan.labels == 1].mean()) > float(scan.image.mean())


def _split_all(patients: list[str], sizes: SplitSizes) -> Mapping[Split, list[str]]:
    return {split: split_by_hash(patients, split, sizes) for split in SPLITS}


def _intensities(shape: tuple[int, int, int]) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def _striped(shape: tuple[int, int, int], values: list[int]) -> np.ndarray:
    """(i, j, k) with one value after the other along i."""
    return np.broadcast_to(np.resize(values, shape[0]).astype(np.int16)[:, None, None], shape)


def _save(path: Path, voxels: np.ndarray, spacing_mm: tuple[float, ...], directions: np.ndarray = AXIAL) -> None:
    """Voxels (i, j, k) with LPS ``directions`` of the three axes as columns."""
    path.parent.mkdir(exist_ok=True)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0)))
    image.SetSpacing([float(mm) for mm in spacing_mm])
    image.SetDirection(directions.flatten().tolist())
    SimpleITK.WriteImage(image, str(path), useCompression=True)
