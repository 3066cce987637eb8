"""What can go wrong, by meaning. The edges (HTTP, CLI) choose how to say it; nothing here knows a status code."""

from collections.abc import Sequence
from typing import Any, ClassVar


class FactoryError(Exception):
    """Base of every error that a caller may read: a stable ``slug``, a ``title`` and facts in ``details``.

    The message names the offending value and what is allowed. ``details`` is JSON-serialisable.
    """

    slug: ClassVar[str] = "factory-error"
    title: ClassVar[str] = "The request could not be carried out"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


class MalformedRequest(FactoryError):
    slug, title = "malformed-request", "The request could not be understood"


class SpacingInvalid(FactoryError):
    """Not a valid spacing: missing, zero, negative, not finite, or not three numbers."""

    slug, title = "spacing-invalid", "The voxel spacing is not valid"


class SpacingOutOfRange(FactoryError):
    """The spacing lies outside the trained range and the policy is ``reject``."""

    slug, title = "spacing-out-of-range", "The voxel spacing is outside the trained range"

    def __init__(self, requested_mm: Sequence[float], trained_mm: Sequence[Sequence[float]]) -> None:
        super().__init__(
            f"spacing {tuple(requested_mm)} mm (R,A,S) is outside the trained range "
            + " x ".join(f"[{low:g}, {high:g}]" for low, high in trained_mm)
            + " mm; choose a spacing inside it, or outside=clamp or outside=extrapolate",
            requested_mm=list(requested_mm),
            trained_range_mm=[list(axis) for axis in trained_mm],
        )


class ConditionInvalid(FactoryError):
    """A condition that the model does not have, or a value outside its range."""

    slug, title = "condition-invalid", "The model does not accept the condition"


class MemberInvalid(FactoryError):
    """A network of an ensemble is wanted, and which of them is not said, or it does not exist."""

    slug, title = "member-invalid", "The model does not have that member"


class SpacingAmbiguous(FactoryError):
    """The header contradicts itself about the spacing (sform/qform against pixdim)."""

    slug, title = "spacing-ambiguous", "The header contradicts itself about the voxel spacing"


class GeometryInvalid(FactoryError):
    """The volume's geometry cannot be used: wrong number of dimensions, singular affine, no voxels."""

    slug, title = "geometry-invalid", "The volume's geometry cannot be used"


class SeriesMixed(FactoryError):
    """Several DICOM series where one is needed, or not the requested one."""

    slug, title = "series-mixed", "The upload must contain exactly one series"


class SlicesInconsistent(GeometryInvalid):
    """The slices of a series differ in size, pixel spacing or orientation, or contradict each other."""

    slug, title = "slices-inconsistent", "The slices of the series do not fit together"


class SlicesAmbiguous(GeometryInvalid):
    """Several slices lie at the same position: echoes, points in time, diffusion weightings."""

    slug, title = "slices-ambiguous", "The series has several slices at the same position"


class SlicesMissing(GeometryInvalid):
    slug, title = "slices-missing", "Slices are missing from the series"


class SlicesIrregular(GeometryInvalid):
    slug, title = "slices-irregular", "The slices are not evenly spaced"


class SlicesTilted(GeometryInvalid):
    """The slices are shifted against each other, as by a tilted gantry."""

    slug, title = "slices-tilted", "The slices are not perpendicular to the line through their positions"


class DicomIncomplete(FactoryError):
    """The scan's images lack identifiers that DICOM results must refer to."""

    slug, title = "dicom-incomplete", "The scan's DICOM headers are incomplete"


class NotAVolume(FactoryError):
    """The bytes are not a volume in a supported format, or they are damaged."""

    slug, title = "not-a-volume", "The file is not a readable volume"


class NoContrast(FactoryError):
    """All voxels are alike, or their spread is too large to compute: there is nothing to segment."""

    slug, title = "no-contrast", "The scan has no usable contrast"


class VolumeTooLarge(FactoryError):
    """The volume exceeds a limit: compressed bytes, decompressed bytes or voxels."""

    slug, title = "volume-too-large", "The volume is too large"


class Implausible(FactoryError):
    """The scan or its result is far from what the model was trained on, and the policy is ``reject``."""

    slug, title = "implausible", "The scan or its result is not plausible for the model"


class ModelUnknown(FactoryError):
    slug, title = "unknown-model", "There is no model with that name"


class CheckpointInvalid(FactoryError):
    """A checkpoint or standalone network file is damaged, or its manifest and tensors disagree."""

    slug, title = "checkpoint-invalid", "The checkpoint cannot be used"


class JobUnknown(FactoryError):
    slug, title = "job-unknown", "There is no job with that id"


class JobExpired(FactoryError):
    slug, title = "job-expired", "The job and its result have expired or were purged"


class JobCancelled(FactoryError):
    slug, title = "job-cancelled", "The job was cancelled"


class DeadlineExceeded(FactoryError):
    slug, title = "deadline-exceeded", "The job took longer than its deadline"


class WorkerLost(FactoryError):
    """The job ended its worker process more often than is allowed."""

    slug, title = "worker-lost", "The job repeatedly ended its worker process"


class DestinationsInvalid(FactoryError):
    """The operator's file of archives and webhooks cannot be used."""

    slug, title = "destinations-invalid", "The destinations cannot be used"


class DestinationUnknown(FactoryError):
    """No archive with that name is configured, or it does not support the request."""

    slug, title = "destination-unknown", "There is no such destination"


class CallbackRefused(FactoryError):
    """A callback URL that is malformed or not on the operator's allow-list."""

    slug, title = "callback-refused", "The callback URL is not allowed"


class DeliveryUnknown(FactoryError):
    slug, title = "delivery-unknown", "There is no delivery with that id"


class SeriesNotFound(FactoryError):
    """The archive has no series with those UIDs."""

    slug, title = "series-not-found", "The archive does not have the series"


class FetchFailed(FactoryError):
    """The archive refused the series or could not deliver it."""

    slug, title = "fetch-failed", "The series could not be fetched from the archive"


class QueueUnavailable(FactoryError):
    """The broker does not take messages now; the same request may succeed in a moment."""

    slug, title = "not-ready", "The service is not ready"


class ApiKeyUnknown(FactoryError):
    slug, title = "api-key-unknown", "There is no such API key"


class ApiKeyInvalid(FactoryError):
    """The values for an API key are not allowed, or the key has expired or was revoked."""

    slug, title = "api-key-invalid", "The API key cannot be created or changed"


class StorageUnavailable(FactoryError):
    """The store for scans and results does not answer now; the same request may succeed in a moment."""

    slug, title = "not-ready", "The service is not ready"


class StorageFull(FactoryError):
    slug, title = "storage-full", "The storage is full"


class OutOfMemory(FactoryError):
    slug, title = "out-of-memory", "The device does not have enough memory for this job"


class BudgetTooSmall(FactoryError):
    """No working spacing is predicted to keep the budget; the least that would do is in the details."""

    slug, title = "budget-too-small", "The budget is too small for this scan"


class RoutingInvalid(FactoryError):
    """The operator's rules for received series cannot be used."""

    slug, title = "routing-invalid", "The routing rules cannot be used"


class DatasetInvalid(FactoryError):
    """A training data set lacks a file, a label or a split that its description promises."""

    slug, title = "dataset-invalid", "The data set cannot be used"
