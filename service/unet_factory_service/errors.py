"""The errors that only the gateway raises; those of the core are in ``unet_factory.domain.errors``."""

from collections.abc import Sequence

from unet_factory.domain.errors import FactoryError
from unet_factory.domain.jobs import Problem
from unet_factory.platform.api_keys import Scope


class NotSupported(FactoryError):
    """A parameter, field or value that is not supported (yet); it is never ignored quietly."""

    slug, title = "not-supported", "The request asks for something that is not supported"


class InferenceByJobs(FactoryError):
    """The Open Inference Protocol's ``infer``: a scan is more than a tensor."""

    slug, title = "inference-by-jobs", "Scans are segmented by jobs"


class QueueFull(FactoryError):
    slug, title = "queue-full", "The queue is full"


class NotReady(FactoryError):
    """The broker, the store or a worker is away; the same request may succeed in a moment."""

    slug, title = "not-ready", "The gateway is not ready"


class IdempotencyConflict(FactoryError):
    """The key was used before for a different request, or for one that is still being received."""

    slug, title = "idempotency-conflict", "The Idempotency-Key is in use for another request"


class NoDicomResults(FactoryError):
    """A segmentation object or a report was requested, but the job's scan was not a DICOM series."""

    slug, title = "no-dicom-results", "The job has no DICOM results"


class NothingSegmented(FactoryError):
    """No label was found in the scan, so there is no segmentation object."""

    slug, title = "nothing-segmented", "Nothing was found in the scan"


class NoPreview(FactoryError):
    slug, title = "no-preview", "The job has no preview"


class NoCoarseLabelMap(FactoryError):
    slug, title = "no-coarse-label-map", "The job has no coarse label map"


class JobNotFinished(FactoryError):
    slug, title = "job-not-finished", "The job has no result yet"


class Unauthenticated(FactoryError):
    """The API key is missing or not valid; the caller learns only which of the two."""

    slug, title = "unauthenticated", "A valid API key is required"

    def __init__(self, *, presented: bool) -> None:
        super().__init__(
            "this API key is not valid: it is unknown, expired or revoked"
            if presented
            else "send an API key in the header `Authorization: Bearer KEY` or `X-API-Key: KEY`"
        )
        self.challenge = 'Bearer realm="unet-factory"' + (', error="invalid_token"' if presented else "")


class ScopeMissing(FactoryError):
    slug, title = "scope-missing", "The API key does not allow this"

    def __init__(self, wanted: Scope, held: Sequence[Scope]) -> None:
        super().__init__(
            f"this requires an API key with the scope {wanted}; yours has {', '.join(held)}",
            scope=wanted,
            held=list(held),
        )
        self.challenge = f'Bearer realm="unet-factory", error="insufficient_scope", scope="{wanted}"'


class RouteClosed(FactoryError):
    """A route without an access rule, which is therefore closed to everyone."""

    slug, title = "route-closed", "This route is closed"


class QuotaExceeded(FactoryError):
    """A key exceeded a quota; ``details`` name the quota, its limit and ``retry_after_s``."""

    slug, title = "quota-exceeded", "The API key's quota is used up"


class StoredProblem(Exception):
    """A problem that a worker stored; the caller gets it as if it had happened in the gateway."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem
