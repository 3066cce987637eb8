"""Which patients belong to which split: as ``splits.json`` says, else by a rule that never changes its mind.

Without ``splits.json`` patients are put in the order of the SHA-256 of their names: random, as in the paper
(section 4.1), yet the same on every machine, and a patient more moves few others. The first are the test split, the
next validation, the next training. A folder of few patients gives no more than a fifth of them, and no less than one,
to either of the first two.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unet_factory.domain.errors import DatasetInvalid
from unet_factory_training.dataset_config import Fold
from unet_factory_training.datasets.description import names_in_split
from unet_factory_training.datasets.subject import Split, Subject


@dataclass(frozen=True)
class SplitSizes:
    """Patients per split; ``train`` None takes all that are left. ``published_test`` come before all others."""

    test: int
    validation: int
    train: int | None = None
    published_test: tuple[str, ...] = ()


def subjects_in_split(
    root: Path, split: Split, subjects: Mapping[str, Sequence[Subject]], sizes: SplitSizes
) -> list[Subject]:
    """The subjects of the split's patients.

    Args:
        subjects: patient name -> their labelled scans, which stay in one split.

    Raises:
        DatasetInvalid: there are no patients, or ``splits.json`` names one who is not there.
    """
    if not subjects:
        raise DatasetInvalid(f"{root.name} holds no labelled scans in the layout of its data set")
    described = (root / "splits.json").is_file()
    patients = names_in_split(root, split) if described else split_by_hash(list(subjects), split, sizes)
    if missing := [patient for patient in patients if patient not in subjects]:
        raise DatasetInvalid(f"{root.name} holds no labelled scans of {', '.join(missing)}")
    return [subject for patient in patients for subject in subjects[patient]]


def subjects_of_fold(subjects: Sequence[Subject], split: Split, fold: Fold) -> list[Subject]:
    """Of all subjects that are not tested, those of the part that validates, or of the others, which train.

    Patients are put in the order of the SHA-256 of their names and dealt out in turn; their scans stay together.

    Raises:
        DatasetInvalid: there are fewer patients than parts.
    """
    patients = sorted({_patient(one) for one in subjects}, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(patients) < fold.of:
        raise DatasetInvalid(f"{len(patients)} patients cannot be divided into {fold.of} folds; take fewer folds")
    validating = set(patients[fold.number :: fold.of])
    return [one for one in subjects if (_patient(one) in validating) is (split == "validation")]


def _patient(subject: Subject) -> str:
    return subject.patient or subject.name


def split_by_hash(patients: Sequence[str], split: Split, sizes: SplitSizes) -> list[str]:
    """The patients of one split."""
    ordered = sorted(
        patients,
        key=lambda patient: (patient not in sizes.published_test, hashlib.sha256(patient.encode()).digest()),
    )
    most = max(1, len(ordered) // 5)
    test, validation = min(sizes.test, most), min(sizes.validation, most)
    start = {"test": 0, "validation": test, "train": test + validation}[split]
    count = {"test": test, "validation": validation, "train": sizes.train}[split]
    return ordered[start:] if count is None else ordered[start : start + count]
