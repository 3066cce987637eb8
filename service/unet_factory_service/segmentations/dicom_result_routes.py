"""What a job made of a DICOM scan besides the label map: a segmentation object and a measurement report."""

from fastapi import APIRouter, Request, Response

from unet_factory.domain.jobs import REPORT_NAME, SEG_NAME, Job
from unet_factory_service.dependencies import GatewayContext, GatewayDependency
from unet_factory_service.documentation import Responses, file_of, problems
from unet_factory_service.errors import NoDicomResults, NothingSegmented
from unet_factory_service.segmentations.job_results import JobId, check_has_result, result_response

router = APIRouter(prefix="/segmentations", tags=["segmentations"])

_DICOM = "application/dicom"
_RESPONSES: Responses = {
    200: file_of(_DICOM, "The object, for the scan's own study"),
    206: file_of(_DICOM, "The bytes of the `Range`"),
    304: {"description": "Not modified: the caller already has these bytes (`If-None-Match`)"},
    **problems(404, 409, 410, 413, 415, 416, 422, 500, 503, 504),
}


@router.get(
    "/{job_id}/seg",
    operation_id="get_segmentation_object",
    summary="The DICOM segmentation of a DICOM scan, on the scan's own frames",
    response_class=Response,
    responses=_RESPONSES,
)
def get_segmentation_object(request: Request, job_id: JobId, gateway: GatewayDependency) -> Response:
    """409 while the job is not final, and always for a scan that was not DICOM; 404 if no label was found in it."""
    job = _finished_dicom_job(gateway, job_id)
    if job.volumes_ml and not any(job.volumes_ml.values()):
        raise NothingSegmented(
            f"none of {', '.join(job.volumes_ml)} was found in the scan, and DICOM does not allow a segmentation object"
            " without segments; the measurement report gives the volumes",
            id=job_id,
        )
    return result_response(request, gateway, job_id, SEG_NAME, _DICOM)


@router.get(
    "/{job_id}/report",
    operation_id="get_report",
    summary="The measurement report of a DICOM scan: volume per label",
    response_class=Response,
    responses=_RESPONSES,
)
def get_report(request: Request, job_id: JobId, gateway: GatewayDependency) -> Response:
    """A structured report after TID 1500. 409 while the job is not final, and always for a scan that was not DICOM."""
    _finished_dicom_job(gateway, job_id)
    return result_response(request, gateway, job_id, REPORT_NAME, _DICOM)


def _finished_dicom_job(gateway: GatewayContext, job_id: str) -> Job:
    job, asked = gateway.jobs.get(job_id), gateway.jobs.request(job_id)
    if not asked.is_dicom:
        raise NoDicomResults(
            f"the scan of job {job_id} was not a DICOM series, so the job has no DICOM results; fetch its label map",
            id=job_id,
        )
    check_has_result(job)
    return job
