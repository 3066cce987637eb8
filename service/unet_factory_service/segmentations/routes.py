"""Segmentations: upload a scan, follow its job, fetch the label map, purge."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from unet_factory.domain.errors import JobExpired, MalformedRequest
from unet_factory.domain.jobs import PREVIEW_NAME, Job
from unet_factory_service.access.callers import Caller, CallerDependency
from unet_factory_service.dependencies import GatewayContext, GatewayDependency
from unet_factory_service.documentation import Responses, file_of, problems
from unet_factory_service.errors import NoCoarseLabelMap, NoPreview
from unet_factory_service.preferences import parse_prefer
from unet_factory_service.public_url import public_location
from unet_factory_service.segmentations.capacity import check_capacity
from unet_factory_service.segmentations.dicom_upload import is_dicom_body, receive_dicom_body
from unet_factory_service.segmentations.documentation import (
    EVENTS_RESPONSES,
    FINISHED_JOB_EXAMPLE,
    JOB_EXAMPLE,
    LABELMAP_RESPONSES,
    SEGMENTATION_BODY,
)
from unet_factory_service.segmentations.idempotency import storage_key
from unet_factory_service.segmentations.job_changes import job_after, job_changes
from unet_factory_service.segmentations.job_results import PRIVATE, JobId, check_has_result, result_response
from unet_factory_service.segmentations.submission import submit
from unet_factory_service.segmentations.upload import read_form, receive_form

HEARTBEAT_S = 15

router = APIRouter(prefix="/segmentations", tags=["segmentations"])

_MEDIA_TYPES = {"nii.gz": "application/gzip", "nrrd": "application/octet-stream"}
_JOB: dict[str, Any] = {"content": {"application/json": {"example": JOB_EXAMPLE}}, "model": Job}
_JOB_RESPONSES: Responses = {200: _JOB | {"description": "The job as it is now"}}
_CREATE_RESPONSES: Responses = {
    200: {
        "content": {"application/json": {"example": FINISHED_JOB_EXAMPLE}},
        "model": Job,
        "description": "The job has already ended; only with `Prefer: wait=N`",
    },
    202: _JOB | {"description": "Accepted; follow `Location`"},
}

_PREVIEW_RESPONSES: Responses = {
    200: file_of("image/png", "The axial, coronal and sagittal plane through the centre of the labels")
}


@router.post(
    "",
    status_code=202,
    operation_id="create_segmentation",
    summary="Upload a scan to be segmented",
    response_model=Job,
    openapi_extra=SEGMENTATION_BODY,
    responses=_CREATE_RESPONSES | problems(400, 404, 409, 410, 413, 415, 422, 429, 503, 507),
)
async def create_segmentation(
    request: Request,
    gateway: GatewayDependency,
    caller: CallerDependency,
    prefer: Annotated[list[str] | None, Header(description="`wait=N`: wait up to N seconds for the job to end")] = None,
    idempotency_key: Annotated[
        str | None,
        Header(description="requests repeated with the same key and content make only one job"),
    ] = None,
) -> Response:
    """The volume is checked before it is queued; what is refused leaves nothing behind."""
    is_dicom = is_dicom_body(request)
    if request.query_params and not is_dicom:
        raise MalformedRequest("send parameters as fields of the form, not in the URL")
    preference = parse_prefer(prefer or (), default_s=0.0, max_s=gateway.settings.max_wait_s)
    key = None if idempotency_key is None else storage_key(idempotency_key, caller.key_id)
    if key is None:
        await run_in_threadpool(
            check_capacity, gateway, caller
        )  # before the upload: a full queue should cost nobody one
    with gateway.blobs.scratch() as folder:
        receive = receive_dicom_body if is_dicom else receive_form
        received = await receive(request, folder, gateway.settings.max_upload_bytes, gateway.check_room)
        parameters = read_form(received.fields)
        job = await gateway.checking.run(caller.owner, submit, gateway, parameters, received.scan, key, caller)
    request.state.job_ids = [job.id]
    job = await job_after(gateway, job, preference.wait_s)
    headers = preference.headers | PRIVATE | {"Location": public_location(request, f"/segmentations/{job.id}")}
    if job.state.final and preference.wait_s > 0:
        return _job_response(job, 200, headers)
    return _job_response(job, 202, headers | {"Retry-After": "1"})


@router.get(
    "/{job_id}",
    operation_id="get_segmentation",
    summary="Get a job: state, progress, timings and volumes",
    responses=_JOB_RESPONSES | problems(404, 410, 503),
)
def get_segmentation(job_id: JobId, response: Response, gateway: GatewayDependency) -> Job:
    response.headers.update(PRIVATE)
    return gateway.jobs.get(job_id)


@router.get(
    "/{job_id}/events",
    operation_id="follow_segmentation",
    summary="The job now and at each change, as server-sent events",
    response_class=EventSourceResponse,
    responses=EVENTS_RESPONSES | problems(404, 410, 503),
)
async def follow_segmentation(
    job_id: JobId, gateway: GatewayDependency, caller: CallerDependency
) -> EventSourceResponse:
    await run_in_threadpool(gateway.jobs.get, job_id)  # an unknown job is a problem, not a stream
    return EventSourceResponse(_events(gateway, job_id, caller), ping=HEARTBEAT_S, headers=PRIVATE)


@router.get(
    "/{job_id}/labelmap",
    operation_id="get_labelmap",
    summary="The label map on the scan's own grid",
    response_class=Response,
    responses=LABELMAP_RESPONSES | problems(404, 409, 410, 413, 415, 416, 422, 500, 503, 504),
)
def get_labelmap(request: Request, job_id: JobId, gateway: GatewayDependency) -> Response:
    """409 while the job is not final; for a failed job, the problem that ended it."""
    check_has_result(gateway.jobs.get(job_id))
    output = gateway.jobs.request(job_id)
    return result_response(request, gateway, job_id, output.output_name, _MEDIA_TYPES[output.output])


@router.get(
    "/{job_id}/coarse-labelmap",
    operation_id="get_coarse_labelmap",
    summary="The first label map of a progressive job, from a coarse spacing",
    response_class=Response,
    responses=LABELMAP_RESPONSES | problems(404, 409, 410, 413, 415, 416, 422, 500, 503, 504),
)
def get_coarse_labelmap(request: Request, job_id: JobId, gateway: GatewayDependency) -> Response:
    """On the scan's own grid, while the job goes on. `X-Working-Spacing` says from which spacing (mm, R,A,S).

    404 until it is there, and for a job that was not submitted with `progressive=true`.
    """
    job = gateway.jobs.get(job_id)
    if job.state.final:
        check_has_result(job)
    if (coarse := job.coarse) is None:
        raise NoCoarseLabelMap(
            f"job {job_id} has no coarse label map, or not yet; submit it with progressive=true", id=job_id
        )
    asked = gateway.jobs.request(job_id)
    response = result_response(request, gateway, job_id, asked.coarse_name, _MEDIA_TYPES[asked.output])
    response.headers["X-Working-Spacing"] = ",".join(f"{mm:g}" for mm in coarse.spacing)
    return response


@router.get(
    "/{job_id}/preview.png",
    operation_id="get_preview",
    summary="A picture of three planes with the outlines of the labels",
    response_class=Response,
    responses=_PREVIEW_RESPONSES | problems(404, 409, 410, 413, 415, 416, 422, 500, 503, 504),
)
def get_preview(request: Request, job_id: JobId, gateway: GatewayDependency) -> Response:
    """409 while the job is not final; 404 if no preview was requested."""
    check_has_result(gateway.jobs.get(job_id))
    try:
        return result_response(request, gateway, job_id, PREVIEW_NAME, "image/png")
    except JobExpired:
        gateway.jobs.get(job_id)  # raises where the job was purged, and its preview with it
        raise NoPreview(f"no preview of job {job_id} was requested; submit it with preview=true", id=job_id) from None


@router.delete(
    "/{job_id}",
    status_code=204,
    operation_id="delete_segmentation",
    summary="Cancel the job if it is still running, and delete all its data",
    responses=problems(404, 410, 503),
)
def delete_segmentation(job_id: JobId, gateway: GatewayDependency) -> None:
    gateway.jobs.get(job_id)  # raises for an unknown or purged job
    series_id = gateway.received.series_of(job_id)
    try:
        gateway.lifecycle.purge(job_id)
    finally:
        if series_id is not None:
            gateway.received.purge(series_id)


async def _events(gateway: GatewayContext, job_id: str, caller: Caller) -> AsyncIterator[ServerSentEvent]:
    """A job that is purged while it is followed simply ends the stream: asking for it says the rest."""
    told_of_coarse = False
    try:
        async for job in job_changes(gateway, job_id, caller):
            if job.coarse is not None and not told_of_coarse:
                told_of_coarse = True
                yield ServerSentEvent(job.model_dump_json(), event="coarse")
            yield ServerSentEvent(job.model_dump_json(), event="job")
    except JobExpired:
        return


def _job_response(job: Job, status: int, headers: dict[str, str]) -> Response:
    return JSONResponse(job.model_dump(mode="json"), status, headers=headers)
