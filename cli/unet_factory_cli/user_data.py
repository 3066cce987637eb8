"""Where ``serve`` keeps its data unless told otherwise."""

import os
import sys
from pathlib import Path


def user_data_dir() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "unet-factory"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "unet-factory"
