"""The caller's own API key: as given, else from the file that the environment names."""

import os
from pathlib import Path

from unet_factory_cli.failures import MISUSED, CommandFailed

API_KEY = "UNET_FACTORY_API_KEY"
API_KEY_FILE = "UNET_FACTORY_API_KEY_FILE"


def own_key(given: str | None) -> str | None:
    """
    Raises:
        CommandFailed: the file cannot be read.
    """
    file = os.environ.get(API_KEY_FILE)
    if given or not file:
        return given or None
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"the file named by {API_KEY_FILE} cannot be read: {file}", MISUSED) from error
