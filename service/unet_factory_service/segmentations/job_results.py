"""Jobs by the ids that callers name, and the files that they made as answers."""

import hashlib
import re
from typing import Annotated

from fastapi import Depends, Request, Response
from fastapi import Path as PathParameter

from unet_factory.domain.errors import JobCancelled, JobExpired, JobUnknown
from unet_factory.domain.jobs import Job, JobState
from unet_factory.platform.logs import add_log_field
from unet_factory_service.access.callers import CallerDependency
from unet_factory_service.conditional import conditional_response
from unet_factory_service.dependencies import GatewayContext, GatewayDependency
from unet_factory_service.errors import JobNotFinished, StoredProblem
from unet_factory_service.segmentations.documentation import JOB_EXAMPLE

PRIVATE = {"Cache-Control": "private, no-store"}

_JOB_ID = re.compile(r"[0-9a-f]{32}")


def _job_id(
    job_id: Annotated[str, PathParameter(examples=[JOB_EXAMPLE["id"]])],
    request: Request,
    gateway: GatewayDependency,
    caller: CallerDependency,
) -> str:
    """Only what can be a job's id reaches the stores; another caller's job is as unknown as one that never existed."""
    if not _JOB_ID.fullmatch(job_id):
        raise JobUnknown(f"there is no job {job_id[:100]!r}; an id is 32 hexadecimal digits")
    request.state.job_ids = [job_id]
    add_log_field("job", job_id)
    if not caller.sees(gateway.jobs, job_id):
        raise JobUnknown(f"there is no job {job_id}", id=job_id)
    return job_id


JobId = Annotated[str, Depends(_job_id)]


def check_has_result(job: Job) -> None:
    """
    Raises:
        StoredProblem: it failed, of this.
        JobCancelled, JobNotFinished: it has no result, or none yet.
    """
    if job.error is not None:
        raise StoredProblem(job.error)
    if job.state is JobState.CANCELLED:
        raise JobCancelled(f"job {job.id} was cancelled", id=job.id)
    if job.state is not JobState.SUCCEEDED:
        raise JobNotFinished(
            f"job {job.id} is {job.state} ({job.progress:.0%} done); wait for it to succeed", id=job.id, state=job.state
        )


def result_response(request: Request, gateway: GatewayContext, job_id: str, name: str, media_type: str) -> Response:
    """The file ``name`` of a job that has succeeded.

    Raises:
        JobExpired: it was purged.
    """
    try:
        with gateway.blobs.local(job_id, name) as path:
            content = path.read_bytes()
    except FileNotFoundError as error:
        raise JobExpired(f"the result of job {job_id} was purged", id=job_id) from error
    return conditional_response(
        request,
        content,
        sha256=hashlib.sha256(content).hexdigest(),
        media_type=media_type,
        headers=PRIVATE | {"Content-Disposition": f'attachment; filename="{job_id}-{name}"'},
    )
