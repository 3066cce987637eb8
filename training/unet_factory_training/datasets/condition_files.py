"""What a data set tells of how its scans were acquired."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from unet_factory.domain.errors import DatasetInvalid
from unet_factory_training.datasets.description import read_description

_CONDITIONS = TypeAdapter(dict[str, dict[str, FiniteFloat]])


def read_conditions(path: Path) -> Mapping[str, Mapping[str, float]]:
    """Scan or patient name -> condition name -> value.

    Raises:
        DatasetInvalid: there is no such file, or it holds something else.
    """
    try:
        return _CONDITIONS.validate_python(read_description(path))
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(str(part) for part in wrong["loc"]) or "the file"
        raise DatasetInvalid(
            f"{path.name}: {where}: {wrong['msg']}; expected scan name -> condition -> number"
        ) from None
