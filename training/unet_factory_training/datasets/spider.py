"""SPIDER (van der Graaf et al., 2023): ``images/PATIENT_t1.mha`` and ``masks/PATIENT_t1.mha``; vertebrae and canal."""

from pathlib import Path

from unet_factory_training.dataset_config import LabelMap
from unet_factory_training.datasets.files import scan_files
from unet_factory_training.datasets.splitting import SplitSizes, subjects_in_split
from unet_factory_training.datasets.subject import Split, Subject

VERTEBRAE_AND_CANAL: LabelMap = {**dict.fromkeys(range(1, 26), 1), 100: 2, "others": 0}
"""Vertebrae are numbered upwards from L5; the others are discs (201-225) and vertebrae in part (101-125)."""

_IMAGE_SUFFIX = "_t1.mha"
_SIZES = SplitSizes(test=10, validation=10)  # paper, Table 1: 10 test scans


def find_spider(root: Path, split: Split) -> list[Subject]:
    """The T1 scan of every patient is a subject."""
    patients = {}
    for image in scan_files(root / "images", f"*{_IMAGE_SUFFIX}"):
        patient = image.name.removesuffix(_IMAGE_SUFFIX)
        patients[patient] = [Subject(image.name.removesuffix(".mha"), image, root / "masks" / image.name)]
    return subjects_in_split(root, split, patients, _SIZES)
