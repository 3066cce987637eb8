"""What a layout finds: files that belong together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Subject:
    """One labelled scan on disk. ``patient`` where a patient has several; without one the scan stands for its own."""

    name: str
    image: Path
    label: Path
    patient: str | None = None
