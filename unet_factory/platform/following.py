"""A request followed through all roles: by its id in every line of their logs, and by its trace."""

from collections.abc import Iterator
from contextlib import contextmanager

from unet_factory.domain.jobs import Origin
from unet_factory.platform.logs import log_field, log_fields
from unet_factory.platform.tracing import Kind, span, traceparent


def origin_of_new_work() -> Origin:
    """To be stored or sent with the work that is being ordered now."""
    return Origin(request_id=log_field("request"), traceparent=traceparent())


@contextmanager
def following(
    origin: Origin, name: str, kind: Kind = "consumer", *, job: str = "", **attributes: str
) -> Iterator[None]:
    """Do what was ordered then: the block is a span called ``name``, and its log lines name the request and the job."""
    with (
        log_fields(request=origin.request_id, job=job),
        span(name, origin.traceparent, kind, **{"job.id": job}, **attributes),
    ):
        yield
