"""Following a job by its event stream, which may break at any time."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx

from unet_factory.domain.jobs import Job, JobState
from unet_factory_client.problems import FactoryProblem

if TYPE_CHECKING:
    from httpx_sse import ServerSentEvent

OnProgress = Callable[[Job], None]

RECONNECT_S = 0.5


def job_of_event(event: "ServerSentEvent") -> Job | None:
    """None for an event that is not about the job."""
    return Job.model_validate_json(event.data, extra="ignore") if event.data.startswith("{") else None


def breaks() -> tuple[type[Exception], ...]:
    """The errors after which a stream is opened again."""
    from httpx_sse import SSEError

    return (httpx.TransportError, SSEError)


def succeeded(job: Job) -> Job:
    """The final job.

    Raises:
        FactoryProblem: it failed or was cancelled.
    """
    if job.state is not JobState.SUCCEEDED:
        raise FactoryProblem.of_job(job)
    return job
