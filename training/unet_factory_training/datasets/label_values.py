"""From the values that a label file holds to classes."""

import numpy as np
from numpy.typing import NDArray

from unet_factory.domain.errors import DatasetInvalid
from unet_factory_training.dataset_config import LabelMap

_CLASSES = range(256)
_SHOWN = 10


def classes_of(values: NDArray[np.float32], label_map: LabelMap | None, name: str) -> NDArray[np.uint8]:
    """The class of every voxel: as ``label_map`` says, without one the value itself.

    Raises:
        DatasetInvalid: values of the file ``name`` that the map does not name, or that are no class.
    """
    found = [float(value) for value in np.unique(values)]
    wanted = {value: _class_of(value, label_map) for value in found}
    unknown = [f"{value:g}" for value in found if wanted[value] not in _CLASSES]
    if unknown:
        shown = unknown if len(unknown) <= _SHOWN else [*unknown[:_SHOWN], f"{len(unknown) - _SHOWN} more"]
        allowed = "the whole numbers 0 to 255" if label_map is None else f"0, {', '.join(map(str, label_map))}"
        raise DatasetInvalid(f"{name} holds the label values {', '.join(shown)}; known are {allowed}")
    classes = np.zeros(values.shape, dtype=np.uint8)
    for value, label in wanted.items():
        if label:
            classes[values == value] = label
    return classes


def _class_of(value: float, label_map: LabelMap | None) -> int | None:
    if label_map is None:
        return int(value) if value.is_integer() else None
    named = label_map.get(int(value)) if value.is_integer() else None
    return named if named is not None else label_map.get("others", 0 if value == 0 else None)
