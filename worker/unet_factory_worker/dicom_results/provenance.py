"""Who made a result, from what and how; and the identifiers that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, generate_uid

from unet_factory import __version__
from unet_factory.domain.jobs import Job, PolicyReport
from unet_factory.domain.manifest import Label, Manifest
from unet_factory.domain.plausibility import Axis, Finding, in_words
from unet_factory.domain.spacing import SpacingMm, SpacingPlan

MANUFACTURER = "U-Net factory"
CREATOR = "Factory^U-Net"  # the same as a person's name
FAMILY = Code("123110", "DCM", "Artificial Intelligence")


@dataclass(frozen=True)
class Provenance:
    """A job, as far as its DICOM results tell of it. ``created`` in seconds since the epoch; spacings in (R, A, S)."""

    job_id: str
    created: float
    model: str
    checkpoint_digest: str
    labels: tuple[Label, ...]
    native_mm: SpacingMm
    working_mm: SpacingMm
    snapped_mm: SpacingMm
    policy: PolicyReport
    mirrored_axes: tuple[Axis, ...] = ()
    postprocessing: tuple[str, ...] = ()
    implausible: tuple[Finding, ...] = ()

    @classmethod
    def of(
        cls, job: Job, manifest: Manifest, digest: str, plan: SpacingPlan, policy: PolicyReport, *findings: Finding
    ) -> Self:
        """Of ``job``, done as planned by the checkpoint of that digest; ``findings`` speak against its results."""
        return cls(
            job_id=job.id,
            created=job.created,
            model=manifest.name,
            checkpoint_digest=digest,
            labels=manifest.labels,
            native_mm=plan.native_mm,
            working_mm=plan.working_mm,
            snapped_mm=plan.snapped.mm,
            policy=policy,
            mirrored_axes=job.mirrored_axes,
            postprocessing=manifest.postprocessing_in_words,
            implausible=findings,
        )

    @property
    def version(self) -> str:
        return __version__

    def uid(self, *what: object) -> UID:
        """The same for the same job and ``what``, however often it is asked: a result delivered twice is one result."""
        return generate_uid(entropy_srcs=["unet-factory", self.job_id, *map(str, what)])

    def device_uid(self) -> UID:
        """Of the observer: this version with this checkpoint, whatever the job."""
        return generate_uid(entropy_srcs=["unet-factory", self.version, self.model, self.checkpoint_digest])

    def tracking(self, label: Label) -> tuple[str, UID]:
        """Identifier and UID of one label's region of interest in this job, the same in every result."""
        return f"{self.model}: {label.name}", self.uid("tracking", label.value)

    def moment(self, header: Dataset) -> datetime:
        """When the job was made, by the clock of the scan's own dates and times where its header names the zone."""
        try:
            zone = datetime.strptime(str(header.TimezoneOffsetFromUTC), "%z").tzinfo
        except (AttributeError, ValueError):
            zone = None
        return datetime.fromtimestamp(self.created, zone)

    def parameters(self) -> dict[str, str]:
        """What the algorithm was run with, for an Algorithm Parameters attribute or content item."""
        return {
            "checkpoint": f"sha256:{self.checkpoint_digest}",
            "native spacing (mm, R A S)": _by(self.native_mm),
            "working spacing (mm, R A S)": _by(self.working_mm),
            "weights made for spacing (mm, R A S)": _by(self.snapped_mm),
            "policy outside the trained range": str(self.policy.outside),
            "outside the trained range": _yes(self.policy.out_of_range),
            "resampled": _yes(self.policy.resampled),
            "in smaller windows for lack of memory": _yes(self.policy.reduced_memory),
            **({"mean with mirror images along": " ".join(self.mirrored_axes)} if self.mirrored_axes else {}),
            **({"postprocessing": "; ".join(self.postprocessing)} if self.postprocessing else {}),
            **({"IMPLAUSIBLE, unlike the training": in_words(self.implausible)} if self.implausible else {}),
        }

    def doubts_volume(self, label: Label) -> bool:
        """Whether the label's volume is far from all that the model was trained on."""
        return any(finding.what == "volume_ml" and finding.label == label.name for finding in self.implausible)


def _by(spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{mm:g}" for mm in spacing_mm)


def _yes(condition: bool) -> str:
    return "yes" if condition else "no"
