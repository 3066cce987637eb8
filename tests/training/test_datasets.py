"""Readers: what a description promises is found, reoriented, and missed by name when it is not there."""

import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from unet_factory.domain.errors import DatasetInvalid
from unet_factory_training.dataset_config import DatasetConfig, Fold
from unet_factory_training.datasets import find_subjects, read_scan
from unet_factory_training.datasets.splitting import subjects_of_fold
from unet_factory_training.datasets.subject import Split, Subject

DATA = os.environ.get("UNET_FACTORY_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="UNET_FACTORY_DATA, the folder of the full data sets, is not set")


def test_splits_are_found_and_read_in_ras(dataset_root: Path) -> None:
    config = DatasetConfig(root=str(dataset_root))
    scans = [read_scan(subject, config) for subject in find_subjects(config, "train")]
    assert [scan.name for scan in scans] == [f"train_{index}" for index in range(4)]
    for scan in scans:
        assert scan.spacing_ras_mm == pytest.approx((1.0, 1.0, 1.2))
        anterior = torch.nonzero(scan.labels == 1)[:, 1].float().mean()
        posterior = torch.nonzero(scan.labels == 2)[:, 1].float().mean()
        assert anterior > posterior, "label 1 lies on the anterior side whatever the file's orientation"


def test_msd_layout_keeps_splits_apart(dataset_root: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (dataset_root / "images").iterdir())
    for msd, ours in (("imagesTr", "images"), ("labelsTr", "labels")):
        shutil.copytree(dataset_root / ours, tmp_path / msd)
    cases = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": cases}))
    config = DatasetConfig(layout="msd", root=str(tmp_path))
    parts = {split: {s.name for s in find_subjects(config, split)} for split in ("train", "validation", "test")}
    assert set.union(*parts.values()) == {name.removesuffix(".nii.gz") for name in names}
    assert sum(map(len, parts.values())) == len(names)
    assert all(parts.values())


def test_a_file_that_is_missing_is_named(dataset_root: Path, tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["nobody.nii.gz"]}))
    config = DatasetConfig(root=str(tmp_path))
    with pytest.raises(DatasetInvalid, match=r"nobody\.nii\.gz"):
        find_subjects(config, "train")
    with pytest.raises(DatasetInvalid, match="'test'"):
        find_subjects(config, "test")
    with pytest.raises(DatasetInvalid, match=r"splits\.json"):
        find_subjects(DatasetConfig(root=str(tmp_path / "absent")), "train")


def test_pixdim_is_taken_where_the_affine_is_known_to_be_wrong(tmp_path: Path) -> None:
    sagittal = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        image = nibabel.Nifti1Image(np.arange(120, dtype=np.float32).reshape(6, 5, 4), sagittal)
        image.header.set_sform(sagittal, code=2)
        image.header.set_zooms((8.0, 1.4, 1.2))
        nibabel.save(image, tmp_path / folder / "scan.nii.gz")
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["scan.nii.gz"]}))
    config = DatasetConfig(root=str(tmp_path), spacing_from="pixdim")
    assert read_scan(find_subjects(config, "train")[0], config).spacing_ras_mm == pytest.approx((1.2, 8.0, 1.4))


def test_names_without_suffix_and_a_label_map(tmp_path: Path) -> None:
    values = np.array([0, 1, 2, 5], np.float32).reshape(4, 1, 1) * np.ones((4, 4, 4), np.float32)
    _save_pair(tmp_path, "03", values)
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["03"]}))
    config = DatasetConfig(root=str(tmp_path), label_map={1: 1, 2: 1, 5: 2})
    subject = find_subjects(config, "train")[0]
    assert subject.name == "03"
    assert read_scan(subject, config).labels[:, 0, 0].tolist() == [0, 1, 1, 2]
    rest = config.model_copy(update={"label_map": {5: 1, "others": 0}})
    assert read_scan(subject, rest).labels[:, 0, 0].tolist() == [0, 0, 0, 1]
    with pytest.raises(DatasetInvalid, match=r"03\.nii\.gz holds the label values 2, 5; known are 0, 1"):
        read_scan(subject, config.model_copy(update={"label_map": {1: 1}}))


def test_labels_that_are_no_classes_are_named(tmp_path: Path) -> None:
    _save_pair(tmp_path, "odd", np.array([0, 1, 2.5, 500], np.float32).reshape(4, 1, 1) * np.ones((4, 4, 4)))
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["odd"]}))
    config = DatasetConfig(root=str(tmp_path))
    with pytest.raises(DatasetInvalid, match=r"2\.5, 500; known are the whole numbers 0 to 255"):
        read_scan(find_subjects(config, "train")[0], config)


def test_acdc_keeps_the_frames_of_a_patient_together(tmp_path: Path) -> None:
    for patient in ("patient001", "patient002"):
        for frame in ("frame01", "frame12"):
            _save_acdc_frame(tmp_path / patient, f"{patient}_{frame}")
        _save_acdc_frame(tmp_path / patient, f"{patient}_4d", labelled=False)
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["patient002"], "test": ["patient001", "patient003"]}))
    config = DatasetConfig(layout="acdc", root=str(tmp_path), spacing_from="pixdim")
    subjects = find_subjects(config, "train")
    assert [subject.name for subject in subjects] == ["patient002_frame01", "patient002_frame12"]
    scan = read_scan(subjects[0], config)
    assert scan.spacing_ras_mm == pytest.approx((1.5625, 1.5625, 10.0))
    assert scan.labels.unique().tolist() == [0, 1, 2, 3]
    assert scan.foreground.tolist() == torch.nonzero(scan.labels).tolist()
    with pytest.raises(DatasetInvalid, match="patient003"):
        find_subjects(config, "test")


@needs_data
@pytest.mark.parametrize(
    ("config", "scans", "classes", "slice_mm"),
    [
        (DatasetConfig(layout="acdc", root="$UNET_FACTORY_DATA/acdc", spacing_from="pixdim"), 10, 4, 10),
        (DatasetConfig(root="$UNET_FACTORY_DATA/spine_vb3", label_map=dict.fromkeys(range(1, 6), 1)), 2, 2, 1),
    ],
    ids=["acdc", "spine"],
)
def test_real_scans_are_read(config: DatasetConfig, scans: int, classes: int, slice_mm: float) -> None:
    subjects = find_subjects(config, "validation")
    assert len(subjects) == scans
    scan = read_scan(subjects[0], config)
    assert scan.labels.unique().tolist() == list(range(classes))
    assert scan.spacing_ras_mm[2] == pytest.approx(slice_mm)
    assert float(scan.image.mean()) == pytest.approx(0, abs=1e-3)


def _save_pair(root: Path, name: str, labels: np.ndarray) -> None:
    for folder, values in (("images", np.arange(labels.size).reshape(labels.shape)), ("labels", labels)):
        (root / folder).mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.eye(4)), root / folder / f"{name}.nii.gz")


def _save_acdc_frame(folder: Path, name: str, *, labelled: bool = True) -> None:
    """As its owners store it: L,P,S with an sform of 1 mm and the truth in pixdim."""
    folder.mkdir(exist_ok=True)
    labels = np.zeros((8, 6, 4), np.uint8)
    labels[2:5, 2:4, 1] = [[1], [2], [3]]
    for suffix, values in (("", np.arange(192, dtype=np.int16).reshape(8, 6, 4)), ("_gt", labels))[: 1 + labelled]:
        image = nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0]))
        image.header.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=2)
        image.header.set_zooms((1.5625, 1.5625, 10.0))
        nibabel.save(image, folder / f"{name}{suffix}.nii.gz")


SPLITS: tuple[Split, Split] = ("train", "validation")


def test_folds_divide_the_patients_that_are_not_tested(dataset_root: Path) -> None:
    """Each validates once; no fold's training knows its validation; the test split stays as it is."""
    plain = DatasetConfig(root=str(dataset_root))
    wanted = {one.name for split in SPLITS for one in find_subjects(plain, split)}
    validated: list[str] = []
    for number in range(3):
        folded = plain.model_copy(update={"fold": Fold(number=number, of=3)})
        train, validation = ([one.name for one in find_subjects(folded, split)] for split in SPLITS)
        test = [one.name for one in find_subjects(folded, "test")]
        assert set(train) | set(validation) == wanted
        assert not set(train) & set(validation)
        assert test == [one.name for one in find_subjects(plain, "test")]
        validated += validation
    assert sorted(validated) == sorted(wanted)


def test_frames_of_a_patient_stay_in_one_fold() -> None:
    frames = [Subject(f"p{n}_{frame}", Path(), Path(), f"p{n}") for n in range(7) for frame in ("ed", "es")]
    for number in range(3):
        fold = Fold(number=number, of=3)
        train, validation = ({one.patient for one in subjects_of_fold(frames, split, fold)} for split in SPLITS)
        assert not train & validation
        assert len(validation) in (2, 3)
    with pytest.raises(DatasetInvalid, match="7 patients cannot be divided into 8 folds"):
        subjects_of_fold(frames, "train", Fold(number=0, of=8))
    with pytest.raises(ValidationError, match="fold 3 of 3"):
        Fold(number=3, of=3)
