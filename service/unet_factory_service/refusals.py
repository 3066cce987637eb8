"""What only an HTTP service can refuse; everything else is refused by the core."""

from unet_factory.errors import FactoryError


class NotSupported(FactoryError):
    """A parameter, field or value that this service does not have (yet); it is never ignored quietly."""

    slug, title = "not-supported", "The request asks for something that is not supported"


class QueueFull(FactoryError):
    slug, title = "queue-full", "The queue is full"


class NotReady(FactoryError):
    """The broker, the store or a worker is away; the same request may succeed in a moment."""

    slug, title = "not-ready", "The service is not ready"


class IdempotencyConflict(FactoryError):
    """The key was used before for a different request, or for one that is still being received."""

    slug, title = "idempotency-conflict", "The Idempotency-Key is in use for another request"


class JobNotFinished(FactoryError):
    slug, title = "job-not-finished", "The job has no result yet"
