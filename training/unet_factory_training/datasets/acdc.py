"""ACDC (Bernard et al., IEEE TMI 2018): ``patientNNN/patientNNN_frameXX.nii.gz`` beside ``..._frameXX_gt.nii.gz``.

The sform of its files says 1 mm on every axis; only ``pixdim`` is true, so it wants ``spacing_from: pixdim``.
"""

from pathlib import Path

from unet_factory_training.datasets.files import scan_files
from unet_factory_training.datasets.splitting import SplitSizes, subjects_in_split
from unet_factory_training.datasets.subject import Split, Subject

_LABEL_SUFFIX = "_gt.nii.gz"
_SIZES = SplitSizes(test=15, validation=5)


def find_acdc(root: Path, split: Split) -> list[Subject]:
    """Every frame with a label map is a subject; all frames of a patient are in one split."""
    frames: dict[str, list[Subject]] = {}
    for label in scan_files(root, f"patient*/patient*_frame*{_LABEL_SUFFIX}"):
        name = label.name.removesuffix(_LABEL_SUFFIX)
        patient, image = label.parent.name, label.with_name(f"{name}.nii.gz")
        frames.setdefault(patient, []).append(Subject(name, image, label, patient))
    return subjects_in_split(root, split, frames, _SIZES)
