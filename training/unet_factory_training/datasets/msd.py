"""The Medical Segmentation Decathlon and nnU-Net's raw layout: ``dataset.json``, ``imagesTr/``, ``labelsTr/``."""

from pathlib import Path

from unet_factory_training.datasets.description import read_description
from unet_factory_training.datasets.subject import Split, Subject


def find_msd(root: Path, split: Split) -> list[Subject]:
    """Every fifth training case, by name, is the test split, the one after it validation."""
    cases = sorted(read_description(root / "dataset.json")["training"], key=lambda case: str(case["image"]))
    parts = {"test": 0, "validation": 1}
    chosen = [case for index, case in enumerate(cases) if parts.get(split, 2) == min(index % 5, 2)]
    return [
        Subject(Path(case["image"]).name.removesuffix(".nii.gz"), root / case["image"], root / case["label"])
        for case in chosen
    ]
