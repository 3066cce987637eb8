"""What the gateway answers besides jobs. Fields added by a newer gateway are ignored."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from unet_factory.domain.conditions import Condition
from unet_factory.domain.dice_by_spacing import DiceBySpacing
from unet_factory.domain.manifest import Architecture, Label, Member
from unet_factory.domain.plausibility import Axis, Seen
from unet_factory.domain.postprocessing import AS_GIVEN, Postprocessing
from unet_factory.domain.spacing import SpacingMm
from unet_factory.platform.atomic_files import whole_file


class ModelDescription(BaseModel):
    """One model of the gateway; ``trained_range_mm`` holds (min, max) per axis (R, A, S). Of an ensemble ``members``
    says of which checkpoints.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    digest: str
    architecture: Architecture
    members: tuple[Member, ...] = ()
    labels: tuple[Label, ...]
    default: bool = False
    trained_range_mm: tuple[tuple[float, float], ...]
    grid_step_mm: float
    conditions: tuple[Condition, ...] = ()
    metrics: tuple[dict[str, Any], ...] = ()
    dice_by_spacing: DiceBySpacing | None = None
    seen: Seen | None = None
    postprocessing: Postprocessing = AS_GIVEN
    mirrored_axes: tuple[Axis, ...] = ()
    licence: str = ""


class DeliveryDescription(BaseModel):
    """A webhook or a push to an archive; ``next_attempt`` in seconds since the epoch, while it is pending."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    job_id: str
    kind: str
    destination: str
    state: str
    attempts: int
    next_attempt: float | None = None
    last_error: str | None = None


class WorkerStatus(BaseModel):
    """A worker that is up; ``started`` in seconds since the epoch."""

    model_config = ConfigDict(frozen=True, extra="allow")

    device: str
    precision: str | None = None
    threads: int | None = None
    models: tuple[str, ...]
    started: float


class FactoryStatus(BaseModel):
    """Who works and what waits. ``active_jobs`` wait or run; no worker has taken the ``queued_jobs`` of them yet."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: str
    workers: tuple[WorkerStatus, ...]
    active_jobs: int
    queued_jobs: int
    queued_networks: int
    pending_deliveries: dict[str, int]
    cache_used_bytes: int
    cache_max_bytes: int


@dataclass(frozen=True)
class StandaloneNetwork:
    """The file of a network made for one spacing (mm, R,A,S).

    ``etag`` is strong and names the bytes; ``snapped_mm`` is what the network was made for, ``requested_mm`` what was
    asked for.
    """

    blob: bytes
    etag: str
    requested_mm: SpacingMm
    snapped_mm: SpacingMm
    headers: dict[str, str]

    def save(self, path: Path) -> None:
        """Write the file: whole or not at all."""
        with whole_file(path) as partial:
            partial.write_bytes(self.blob)
