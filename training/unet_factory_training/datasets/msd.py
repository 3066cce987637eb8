"""The Medical Segmentation Decathlon and nnU-Net's raw data sets: ``dataset.json``, ``imagesTr/``, ``labelsTr/``.

``dataset.json`` may list its cases in ``training`` (the Decathlon, nnU-Net v1) or in ``dataset`` (nnU-Net v2), or say
only how files end; the cases are then those in the two folders (nnU-Net v2). nnU-Net gives every image the number of
its channel, as in ``case_0000.nii.gz``, and v1 does not list that number.
"""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from unet_factory.domain.errors import DatasetInvalid
from unet_factory_training.datasets.description import read_description
from unet_factory_training.datasets.files import as_posix, is_litter, scan_files
from unet_factory_training.datasets.subject import Split, Subject

_ENDING = ".nii.gz"
_PARTS = {"test": 0, "validation": 1, "train": 2}


class _Case(BaseModel):
    """Files relative to the root: an image, or one for each channel, and a label map."""

    images: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = Field(
        validation_alias=AliasChoices("image", "images"), min_length=1
    )
    label: str


_LISTED = TypeAdapter(list[_Case])


def find_msd(root: Path, split: Split) -> list[Subject]:
    """Every fifth training case, by name, is the test split, the one after it validation.

    Raises:
        DatasetInvalid: there is no ``dataset.json``, it lists something else than cases, or an image has no label map.
    """
    description = read_description(root / "dataset.json")
    ending = str(description.get("file_ending", _ENDING))
    listed = description.get("training", description.get("dataset"))
    subjects = _in_folders(root, ending) if listed is None else _in_list(root, listed, ending)
    return [subject for index, subject in enumerate(subjects) if min(index % 5, 2) == _PARTS[split]]


def _in_list(root: Path, listed: Any, ending: str) -> list[Subject]:
    try:
        cases = _LISTED.validate_python(list(listed.values()) if isinstance(listed, dict) else listed)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        where = " ".join(map(str, wrong["loc"])) or "the list"
        raise DatasetInvalid(
            f"{root.name}/dataset.json: case {where}: {wrong['msg']}; a case is "
            '{"image": "imagesTr/NAME", "label": "labelsTr/NAME"}'
        ) from None
    subjects = []
    for case in sorted((case for case in cases if not is_litter(case.images[0])), key=lambda case: case.images):
        images = [path for name in case.images for path in _channels(root / as_posix(name), ending)]
        label = root / as_posix(case.label)
        subjects.append(Subject(_stem(label, ending), images[0], label, channels=tuple(images)))
    return subjects


def _in_folders(root: Path, ending: str) -> list[Subject]:
    """The label maps in ``labelsTr``, each with the images in ``imagesTr`` that have its name."""
    labels = [path for path in scan_files(root / "labelsTr", "*") if path.name.endswith(ending)]
    if not labels:
        raise DatasetInvalid(
            f"{root.name}/dataset.json lists no cases, and {root.name}/labelsTr holds no files that end in {ending}; "
            "say in file_ending how they end"
        )
    subjects = []
    for label in labels:
        images = _channels(root / "imagesTr" / label.name, ending)
        subjects.append(Subject(_stem(label, ending), images[0], label, channels=tuple(images)))
    known = {image for subject in subjects for image in subject.channels}
    images_there = [path for path in scan_files(root / "imagesTr", "*") if path.name.endswith(ending)]
    if unlabelled := [path.name for path in images_there if path not in known]:
        raise DatasetInvalid(f"{root.name}/imagesTr/{unlabelled[0]} has no label map in {root.name}/labelsTr")
    return subjects


def _channels(image: Path, ending: str) -> list[Path]:
    """The file itself if it is there, else those that have the number of a channel before their ending."""
    if image.exists():
        return [image]
    numbered = re.compile(rf"{re.escape(_stem(image, ending))}_\d{{4}}{re.escape(ending)}")
    return [path for path in scan_files(image.parent, "*") if numbered.fullmatch(path.name)] or [image]


def _stem(path: Path, ending: str) -> str:
    return path.name.removesuffix(ending)
