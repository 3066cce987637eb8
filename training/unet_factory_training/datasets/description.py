"""The JSON files that describe a data set."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from unet_factory.domain.errors import DatasetInvalid
from unet_factory_training.datasets.files import is_litter
from unet_factory_training.datasets.subject import Split

_NAMES = TypeAdapter(list[str])


def names_in_split(root: Path, split: Split) -> list[str]:
    """What ``splits.json`` (``{"train": [...], "validation": [...], "test": [...]}``) lists for ``split``.

    Raises:
        DatasetInvalid: there is no such file, no such split in it, or the split is no list of names.
    """
    listed = read_description(root / "splits.json").get(split)
    if listed is None:
        raise DatasetInvalid(f"{root.name}/splits.json has no split {split!r}")
    try:
        names = _NAMES.validate_python(listed, strict=True)
    except ValidationError as error:
        raise DatasetInvalid(
            f"{root.name}/splits.json: split {split!r} must be a list of names; {error.errors()[0]['msg']}"
        ) from None
    return [name for name in names if not is_litter(name)]


def read_description(path: Path) -> dict[str, Any]:
    """A JSON object in any Unicode encoding, with or without a byte order mark.

    Raises:
        DatasetInvalid: there is no such file, or it is not a JSON object.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DatasetInvalid(f"{path.parent.name} has no {path.name}") from None
    except (ValueError, OSError) as error:
        raise DatasetInvalid(f"{path.parent.name}/{path.name} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise DatasetInvalid(f"{path.parent.name}/{path.name} must be a JSON object, it is {type(content).__name__}")
    return content
