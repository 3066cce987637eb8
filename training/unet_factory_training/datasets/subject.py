"""What a layout finds: files that belong together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Subject:
    """One labelled scan on disk. ``patient`` where a patient has several; without one the scan stands for its own.
    ``channels``: all of the scan's images where it has one for each channel; ``image`` is the first.

    ``conditions``: what the data set says of its acquisition, by name.
    """

    name: str
    image: Path
    label: Path
    patient: str | None = None
    channels: tuple[Path, ...] = ()
    conditions: Mapping[str, float] = field(default_factory=dict)
