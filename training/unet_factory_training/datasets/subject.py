"""What a layout finds: files that belong together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Subject:
    """One labelled scan on disk."""

    name: str
    image: Path
    label: Path
