"""``GET /segmentations``: the caller's own jobs."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from unet_factory.domain.frozen import Frozen
from unet_factory.domain.jobs import Job, JobState
from unet_factory.jobs.listing import Cursor, JobListing
from unet_factory_service.access.callers import CallerDependency
from unet_factory_service.dependencies import GatewayDependency
from unet_factory_service.documentation import problems
from unet_factory_service.segmentations.job_results import PRIVATE

router = APIRouter(prefix="/segmentations", tags=["segmentations"])


class JobList(Frozen):
    """One page. There may be more although it is short: go on until ``next`` is null."""

    jobs: list[Job] = Field(description="the newest first")
    next: str | None = Field(description="`cursor` of the next page; null on the last")


@router.get(
    "",
    operation_id="list_segmentations",
    summary="List your jobs",
    responses=problems(400, 503),
)
def list_segmentations(
    response: Response,
    gateway: GatewayDependency,
    caller: CallerDependency,
    state: Annotated[list[JobState] | None, Query(description="only jobs in these states; repeat for several")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="`next` of the page before")] = None,
) -> JobList:
    """Those of this API key and of the keys that share its jobs; where no keys are required, all jobs."""
    after = None if cursor is None else Cursor.parse(cursor)
    listing = JobListing(gateway.redis, gateway.jobs)
    page = listing.page(caller.owner, limit=limit, after=after, states=state or tuple(JobState))
    response.headers.update(PRIVATE)
    return JobList(jobs=page.jobs, next=None if page.next is None else str(page.next))
