"""The JSON files that describe a data set."""

import json
from pathlib import Path
from typing import Any

from unet_factory.domain.errors import DatasetInvalid
from unet_factory_training.datasets.subject import Split


def names_in_split(root: Path, split: Split) -> list[str]:
    """What ``splits.json`` (``{"train": [...], "validation": [...], "test": [...]}``) lists for ``split``.

    Raises:
        DatasetInvalid: there is no such file, or no such split in it.
    """
    names: list[str] | None = read_description(root / "splits.json").get(split)
    if names is None:
        raise DatasetInvalid(f"{root.name}/splits.json has no split {split!r}")
    return names


def read_description(path: Path) -> dict[str, Any]:
    """
    Raises:
        DatasetInvalid: there is no such file, or it is no JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DatasetInvalid(f"{path.parent.name} has no {path.name}") from None
    except ValueError as error:
        raise DatasetInvalid(f"{path.parent.name}/{path.name} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise DatasetInvalid(f"{path.parent.name}/{path.name} must be a JSON object, it is {type(content).__name__}")
    return content
