"""Readers: what a description promises is found, reoriented, and missed by name when it is not there."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from unet_factory.errors import DatasetInvalid
from unet_factory_training.config import DatasetConfig
from unet_factory_training.datasets import find_subjects, read_scan


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
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        image = nibabel.Nifti1Image(np.ones((6, 5, 4), np.float32), np.eye(4))
        image.header.set_zooms((1.4, 1.4, 8.0))
        image.header.set_sform(np.eye(4), code=2)
        nibabel.save(image, tmp_path / folder / "scan.nii.gz")
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["scan.nii.gz"]}))
    config = DatasetConfig(root=str(tmp_path), spacing_from="pixdim")
    assert read_scan(find_subjects(config, "train")[0], config).spacing_ras_mm == pytest.approx((1.4, 1.4, 8.0))
