"""Labelled scans on disk, as their owners lay them out."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
import torch
from torch import Tensor

from unet_factory.errors import DatasetInvalid
from unet_factory.spacing import SpacingMm, validate_spacing
from unet_factory.volume import Volume, read_volume
from unet_factory_training.config import DatasetConfig

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Subject:
    """One labelled scan on disk."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Scan:
    """One labelled scan in memory, axes (R, A, S): ``image`` (r, a, s) float32, ``labels`` (r, a, s) uint8."""

    name: str
    image: Tensor
    labels: Tensor
    spacing_ras_mm: SpacingMm


def find_subjects(config: DatasetConfig, split: Split) -> list[Subject]:
    """The subjects of a split, in the order of its description.

    Raises:
        DatasetInvalid: the description, a split or a file is missing.
    """
    root = _root(config)
    subjects = _from_splits(root, split) if config.layout == "splits" else _from_msd(root, split)
    for subject in subjects:
        for path in (subject.image, subject.label):
            if not path.is_file():
                raise DatasetInvalid(f"split {split!r} of {root.name} names {path.name}, but there is no such file")
    return subjects


def _root(config: DatasetConfig) -> Path:
    expanded = os.path.expandvars(config.root)
    if "$" in expanded:
        raise DatasetInvalid(f"the data set's root {config.root} names an environment variable that is not set")
    return Path(expanded)


def read_scan(subject: Subject, config: DatasetConfig) -> Scan:
    """Load image and labels, both reoriented to RAS+."""
    image, labels = _read_ras(subject.image, config), _read_ras(subject.label, config)
    if image.data.shape != labels.data.shape:
        raise DatasetInvalid(f"{subject.name}: image {image.data.shape} and labels {labels.data.shape} differ in shape")
    values = torch.from_numpy(labels.data.astype(np.uint8))
    return Scan(subject.name, torch.from_numpy(image.data), values, image.spacing_ras_mm)


def _read_ras(path: Path, config: DatasetConfig) -> Volume:
    return read_volume(path, spacing_ras_mm=_pixdim_ras_mm(path) if config.spacing_from == "pixdim" else None)


def _pixdim_ras_mm(path: Path) -> SpacingMm:
    zooms = nibabel.as_closest_canonical(nibabel.load(path)).header.get_zooms()
    return validate_spacing(zooms[:3])


def _from_splits(root: Path, split: Split) -> list[Subject]:
    names = _read_json(root / "splits.json").get(split)
    if names is None:
        raise DatasetInvalid(f"{root.name}/splits.json has no split {split!r}")
    return [Subject(name.removesuffix(".nii.gz"), root / "images" / name, root / "labels" / name) for name in names]


def _from_msd(root: Path, split: Split) -> list[Subject]:
    """MSD / nnU-Net raw layout: every fifth training case, by name, is the test split, the one after it validation."""
    cases = sorted(_read_json(root / "dataset.json")["training"], key=lambda case: str(case["image"]))
    parts = {"test": 0, "validation": 1}
    chosen = [case for index, case in enumerate(cases) if parts.get(split, 2) == min(index % 5, 2)]
    return [
        Subject(Path(case["image"]).name.removesuffix(".nii.gz"), root / case["image"], root / case["label"])
        for case in chosen
    ]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise DatasetInvalid(f"{path.parent.name} has no {path.name}") from None
    return content
