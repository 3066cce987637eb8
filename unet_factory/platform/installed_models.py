"""Models and example scans that came as packages: each declares its folder as an entry point of its distribution."""

import logging
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

MODELS_GROUP = "unet_factory.models"
EXAMPLES_GROUP = "unet_factory.examples"

log = logging.getLogger(__name__)


def installed_folders(group: str) -> tuple[Path, ...]:
    """The folders that the installed packages of a group bring, in the order of the entry points' names.

    An entry point names a package that holds nothing but files. One that cannot be found is left out, with an error in
    the log.
    """
    folders = []
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        try:
            folders.append(Path(str(files(point.value))))
        except (ImportError, OSError, TypeError) as error:
            log.error("the package %s, installed as %s, cannot be used: %s", point.value, point.name, error)
    return tuple(folders)
