"""What a layout finds: files that belong together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Subject:
    """One labelled scan on disk. ``patient`` where a patient has several; without one the scan stands for its own.

    ``conditions``: what the data set says of its acquisition, by name.
    """

    name: str
    image: Path
    label: Path
    patient: str | None = None
    conditions: Mapping[str, float] = field(default_factory=dict)
