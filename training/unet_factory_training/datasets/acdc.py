"""ACDC (Bernard et al., IEEE TMI 2018): ``patientNNN/patientNNN_frameXX.nii.gz`` beside ``..._frameXX_gt.nii.gz``.

The sform of its files says 1 mm on every axis; only ``pixdim`` is true, so it wants ``spacing_from: pixdim``.
"""

from pathlib import Path

from unet_factory.errors import DatasetInvalid
from unet_factory_training.datasets.description import names_in_split
from unet_factory_training.datasets.subject import Split, Subject

_LABEL_SUFFIX = "_gt.nii.gz"


def find_acdc(root: Path, split: Split) -> list[Subject]:
    """``splits.json`` lists patients; every frame with a label map of a patient is a subject, all in one split.

    Raises:
        DatasetInvalid: a listed patient has no label map.
    """
    return [subject for patient in names_in_split(root, split) for subject in _frames(root / patient)]


def _frames(folder: Path) -> list[Subject]:
    labels = sorted(folder.glob(f"{folder.name}_frame*{_LABEL_SUFFIX}"))
    if not labels:
        raise DatasetInvalid(f"patient {folder.name} has no {folder.name}_frame*{_LABEL_SUFFIX}")
    names = [label.name.removesuffix(_LABEL_SUFFIX) for label in labels]
    return [Subject(name, folder / f"{name}.nii.gz", label) for name, label in zip(names, labels, strict=True)]
