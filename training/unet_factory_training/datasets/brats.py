"""BraTS 2021 (Baid et al., 2021): ``CASE/CASE_t1ce.nii.gz`` beside ``CASE/CASE_seg.nii.gz``; the tumour core."""

from pathlib import Path

from unet_factory_training.dataset_config import LabelMap
from unet_factory_training.datasets.files import scan_files
from unet_factory_training.datasets.splitting import SplitSizes, subjects_in_split
from unet_factory_training.datasets.subject import Split, Subject

TUMOUR_CORE: LabelMap = {1: 1, 4: 1, 2: 0}
"""Necrotic core and enhancing tumour, without oedema."""

_IMAGE_SUFFIX = "_t1ce.nii.gz"
_SIZES = SplitSizes(test=25, validation=25, train=900)  # paper, Table 1; 25 of those it leaves out validate


def find_brats(root: Path, split: Split) -> list[Subject]:
    """Every case is a subject."""
    cases = {}
    for image in scan_files(root, f"*/*{_IMAGE_SUFFIX}"):
        name = image.name.removesuffix(_IMAGE_SUFFIX)
        cases[name] = [Subject(name, image, image.with_name(f"{name}_seg.nii.gz"))]
    return subjects_in_split(root, split, cases, _SIZES)
