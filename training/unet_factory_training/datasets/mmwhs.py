"""MM-WHS (Zhuang et al., 2019), MR: ``mr_train_NNNN_image.nii.gz`` beside ``..._label.nii.gz``; seven structures."""

from pathlib import Path

from unet_factory_training.dataset_config import LabelMap
from unet_factory_training.datasets.files import scan_files
from unet_factory_training.datasets.splitting import SplitSizes, subjects_in_split
from unet_factory_training.datasets.subject import Split, Subject

SEVEN_STRUCTURES: LabelMap = {500: 1, 600: 2, 420: 3, 550: 4, 205: 5, 820: 6, 850: 7, 421: 3}
"""Cavities of the left and right ventricle, the left and right atrium; myocardium, aorta, pulmonary artery.

421 is a slip for 420 in one of the owners' files.
"""

_IMAGE_SUFFIX = "_image.nii.gz"
_TEST = tuple(f"mr_train_{number}" for number in (1005, 1010, 1012, 1014))  # held out by the paper's public code
_SIZES = SplitSizes(test=4, validation=2, published_test=_TEST)


def find_mmwhs(root: Path, split: Split) -> list[Subject]:
    """Every MR scan with a label map is a subject."""
    scans = {}
    for image in scan_files(root, f"mr_train_*{_IMAGE_SUFFIX}"):
        name = image.name.removesuffix(_IMAGE_SUFFIX)
        scans[name] = [Subject(name, image, image.with_name(f"{name}_label.nii.gz"))]
    return subjects_in_split(root, split, scans, _SIZES)
