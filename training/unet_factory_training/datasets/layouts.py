"""The layouts by name, and the search for the subjects of a split in one of them."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from unet_factory.domain.errors import DatasetInvalid
from unet_factory_training.dataset_config import DatasetConfig, LabelMap, LayoutName
from unet_factory_training.datasets.acdc import find_acdc
from unet_factory_training.datasets.brats import TUMOUR_CORE, find_brats
from unet_factory_training.datasets.condition_files import read_conditions
from unet_factory_training.datasets.mmwhs import SEVEN_STRUCTURES, find_mmwhs
from unet_factory_training.datasets.msd import find_msd
from unet_factory_training.datasets.spider import VERTEBRAE_AND_CANAL, find_spider
from unet_factory_training.datasets.split_files import find_split_files
from unet_factory_training.datasets.splitting import subjects_of_fold
from unet_factory_training.datasets.subject import Split, Subject


@dataclass(frozen=True)
class Layout:
    """How one owner lays out scans: ``find`` lists a split's subjects; ``label_map`` None keeps the files' values."""

    find: Callable[[Path, Split], list[Subject]]
    label_map: LabelMap | None = None


LAYOUTS: Mapping[LayoutName, Layout] = {
    "splits": Layout(find_split_files),
    "msd": Layout(find_msd),
    "acdc": Layout(find_acdc),
    "brats": Layout(find_brats, TUMOUR_CORE),
    "spider": Layout(find_spider, VERTEBRAE_AND_CANAL),
    "mmwhs": Layout(find_mmwhs, SEVEN_STRUCTURES),
}


def find_subjects(config: DatasetConfig, split: Split) -> list[Subject]:
    """The subjects of a split, in the order of its description.

    Raises:
        DatasetInvalid: the description, a split or a file is missing, or a scan has several channels and
            ``config.channel`` names none of them.
    """
    root = _root(config)
    subjects = [_of_channel(one, config.channel) for one in _found(root, config, split)]
    if config.conditions is not None:
        told = read_conditions(root / config.conditions)
        subjects = [replace(one, conditions=told.get(one.name, told.get(one.patient or "", {}))) for one in subjects]
    for subject in subjects:
        for path in (subject.image, subject.label):
            if not path.is_file():
                raise DatasetInvalid(f"split {split!r} of {root.name} names {path.name}, but there is no such file")
    return subjects


def _found(root: Path, config: DatasetConfig, split: Split) -> list[Subject]:
    find = LAYOUTS[config.layout].find
    if config.fold is None or split == "test":
        return find(root, split)
    return subjects_of_fold([*find(root, "train"), *find(root, "validation")], split, config.fold)


def _of_channel(subject: Subject, channel: int | None) -> Subject:
    if channel is None and len(subject.channels) < 2:
        return subject
    if channel is None or channel >= max(1, len(subject.channels)):
        raise DatasetInvalid(
            f"{subject.name} has {max(1, len(subject.channels))} channels; name one in dataset.channel, counted from 0"
            + ("" if channel is None else f", not {channel}")
        )
    return replace(subject, image=subject.channels[channel] if subject.channels else subject.image)


def label_map_of(config: DatasetConfig) -> LabelMap | None:
    """The configured label map, else the layout's own."""
    return config.label_map if config.label_map is not None else LAYOUTS[config.layout].label_map


def _root(config: DatasetConfig) -> Path:
    expanded = os.path.expandvars(config.root)
    if "$" in expanded:
        raise DatasetInvalid(f"the data set's root {config.root} names an environment variable that is not set")
    return Path(expanded)
