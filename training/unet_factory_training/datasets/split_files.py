"""Our own layout: ``splits.json`` beside ``images/`` and ``labels/`` with equal file names."""

from pathlib import Path

from unet_factory_training.datasets.description import names_in_split
from unet_factory_training.datasets.files import as_posix
from unet_factory_training.datasets.subject import Split, Subject

_SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd")


def find_split_files(root: Path, split: Split) -> list[Subject]:
    """A name without one of the known suffixes stands for a ``.nii.gz``."""
    return [_subject(root, name) for name in names_in_split(root, split)]


def _subject(root: Path, name: str) -> Subject:
    name = str(as_posix(name))
    suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")
    file_name = name if suffix else f"{name}{_SUFFIXES[0]}"
    return Subject(name.removesuffix(suffix), root / "images" / file_name, root / "labels" / file_name)
