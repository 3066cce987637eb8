"""The contract that gateway, worker and client share: what a job is asked to do, and what is known of it."""

import secrets
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from unet_factory.domain.budget import BudgetReport
from unet_factory.domain.conditions import SnappedConditions
from unet_factory.domain.frozen import Frozen
from unet_factory.domain.plausibility import Axis, Finding
from unet_factory.domain.precision import Precision
from unet_factory.domain.segmentation_parameters import SegmentationOptions
from unet_factory.domain.spacing import OutsidePolicy, SpacingMm

SEGMENT_TASK = "unet_factory.segment"
GENERATE_TASK = "unet_factory.generate"
HELP_TASK = "unet_factory.help"
ORIGIN_HEADER = "unet_factory_origin"  # of a message: an Origin as JSON
SEGMENT_QUEUE = "segmentations"
WEIGHTS_QUEUE = "weights"
WINDOWS_QUEUE = "windows"
QUEUES = (WEIGHTS_QUEUE, SEGMENT_QUEUE, WINDOWS_QUEUE)

SEG_NAME = "seg.dcm"
REPORT_NAME = "report.dcm"
PREVIEW_NAME = "preview.png"


NetworkFormat = Literal["safetensors", "onnx", "pt2", "bundle"]


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING)


class PacsSeries(Frozen):
    """A series in a configured archive. Its UIDs stay in the request's record: out of logs, URLs and messages."""

    pacs: str
    study_uid: str
    series_uid: str


class DeliveryKind(StrEnum):
    FETCH = "fetch"
    WEBHOOK = "webhook"
    DICOMWEB = "dicomweb"
    DIMSE = "dimse"


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    SKIPPED = "skipped"


class Delivery(Frozen):
    """What a courier does for a job at one destination: fetch its series before, deliver its result after.

    ``destination`` is an archive's configured name or a webhook's host; ``last_error`` names no patient.
    """

    kind: DeliveryKind
    destination: str
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    lost: int = Field(default=0, description="attempts in a row during which the courier died")
    since: float | None = Field(default=None, description="when it was first tried; seconds since the epoch")
    next_attempt: float | None = Field(default=None, description="while it is pending; seconds since the epoch")
    last_error: str | None = None


class Origin(Frozen):
    """The request that some work was ordered by, to be told in the logs and traces of all who have a part in it."""

    request_id: str = ""
    traceparent: str = Field(default="", description="W3C Trace Context; empty while no traces are made")


class SegmentationRequest(SegmentationOptions):
    """What the worker and the couriers need to know; the scan itself lies in the blob store under the job's id."""

    model: str
    checkpoint_digest: str
    pinned: bool = Field(default=False, description="whether this very checkpoint was asked for, as `model@digest`")
    input_name: str = Field(description="blob name of the upload, for example input.nii.gz; never the user's file name")
    conditions: SnappedConditions = Field(default=(), description="for each of the model's conditions, in its order")
    deadline_s: float = 3600.0
    series: PacsSeries | None = Field(default=None, description="where the scan is fetched from; absent for an upload")
    send_to: tuple[str, ...] = Field(default=(), description="archives, by their configured names")
    callback_url: str | None = Field(default=None, description="may hold a token of the receiver's: never shown")
    origin: Origin = Origin()

    @property
    def output_name(self) -> str:
        return f"labelmap.{self.output}"

    @property
    def coarse_name(self) -> str:
        """Of the label map that comes first in a progressive job."""
        return f"coarse-labelmap.{self.output}"

    @property
    def is_dicom(self) -> bool:
        """Whether the scan is a DICOM series: those are stored as one zip archive, however they came."""
        return self.input_name.endswith(".zip")


class Spacings(Frozen):
    """All in mm, order (R, A, S)."""

    native: SpacingMm | None = None
    requested: SpacingMm | None = None
    working: SpacingMm | None = None


class Problem(Frozen):
    """RFC 9457 problem details, as stored with a failed job (its optional ``status`` belongs to HTTP)."""

    type: str
    title: str
    detail: str
    details: dict[str, Any] = Field(default_factory=dict)


class PolicyReport(Frozen):
    """The policy asked for, and what it did: nothing is adjusted silently."""

    outside: OutsidePolicy
    out_of_range: bool = False
    resampled: bool = False
    reduced_memory: bool = Field(
        default=False, description="memory ran out, and the job was repeated with smaller windows"
    )
    coarser_for_memory: bool = Field(
        default=False, description="memory ran out with smaller windows too, and a coarser working spacing was taken"
    )
    moved_to_cpu: bool = Field(
        default=False, description="memory of the GPU ran out at any spacing allowed, and the CPU did the job"
    )


class CoarseResult(Frozen):
    """The label map that a progressive job makes first, on the scan's grid but from a coarse working spacing."""

    spacing: SpacingMm = Field(description="working spacing in mm, R,A,S")
    seconds: float = Field(description="after a worker took the job")


class Job(Frozen):
    """All that is known of a segmentation. Times are seconds since the epoch, ``timings_s`` seconds per stage."""

    id: str
    state: JobState = JobState.QUEUED
    progress: float = 0.0
    model: str
    policy: PolicyReport
    spacing: Spacings = Spacings()
    dicom: bool = Field(default=False, description="the scan is a DICOM series: there are DICOM results, too")
    conditions: dict[str, float] = Field(default_factory=dict, description="that the network was made for, by name")
    device: str | None = None
    precision: Precision | None = Field(default=None, description="of the network's arithmetic")
    timings_s: dict[str, float] = Field(default_factory=dict)
    peak_bytes: int | None = None
    mirrored_axes: tuple[Axis, ...] = Field(
        default=(), description="with `mirroring=true`: along which the scan is mirrored too, and the mean taken"
    )
    budget: BudgetReport | None = Field(default=None, description="only of a job with a budget, once a worker has it")
    coarse: CoarseResult | None = Field(
        default=None, description="with `progressive=true`: a first, coarse label map can be had meanwhile"
    )
    weights_cached: bool | None = None
    volumes_ml: dict[str, float] | None = None
    implausible: tuple[Finding, ...] = Field(
        default=(), description="values far from everything that the model was trained on; do not rely on the result"
    )
    postprocessing: tuple[str, ...] = Field(
        default=(), description="what is done to the label map that the network gives, step by step"
    )
    notes: tuple[str, ...] = Field(default=(), description="what was chosen or tolerated while reading the scan")
    error: Problem | None = None
    attempts: int = 0
    created: float
    finished: float | None = None
    expires: float
    fetch: Delivery | None = Field(default=None, description="for a series that comes from an archive")
    deliveries: tuple[Delivery, ...] = ()

    @property
    def ready_to_run(self) -> bool:
        """Whether a worker could start it: none has, and its scan is here."""
        return self.state is JobState.QUEUED and (self.fetch is None or self.fetch.state is DeliveryState.DELIVERED)


class GenerationRequest(Frozen):
    """A standalone network that someone waits for; of an ensemble, its ``member`` of that number, from 1 on."""

    model: str
    checkpoint_digest: str
    member: int | None = None
    snapped_um: tuple[int, int, int]
    conditions: SnappedConditions = ()
    format: NetworkFormat = "safetensors"
    dtype: Literal["float32", "float16"] = "float32"


def new_job_id() -> str:
    """128 random bits: an id cannot be guessed, and says nothing of its patient."""
    return secrets.token_hex(16)
