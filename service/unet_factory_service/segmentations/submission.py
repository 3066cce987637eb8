"""From parameters and a scan to a queued job, or to an error that leaves nothing behind."""

import hashlib
import logging
import time
from pathlib import Path
from typing import NamedTuple

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from unet_factory.domain.conditions import named_conditions, snap_conditions
from unet_factory.domain.errors import (
    Implausible,
    MalformedRequest,
    QueueUnavailable,
    SpacingOutOfRange,
    StorageUnavailable,
)
from unet_factory.domain.jobs import Job, PacsSeries, PolicyReport, SegmentationRequest, Spacings, new_job_id
from unet_factory.domain.plausibility import Finding, field_of_view_findings, refuse_implausible
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory.domain.spacing import check_working_size, plan_spacing
from unet_factory.platform.following import origin_of_new_work
from unet_factory.platform.logs import add_log_field
from unet_factory.platform.metrics import IMPLAUSIBLE_RESULTS, SPACING_OUT_OF_RANGE
from unet_factory.platform.model_registry import RegisteredModel
from unet_factory.platform.redis_clients import await_replicas
from unet_factory.volume import VolumeHeader, read_header, sniff_format
from unet_factory_service.access.callers import ANYBODY, Caller
from unet_factory_service.dependencies import GatewayContext
from unet_factory_service.errors import NotSupported
from unet_factory_service.quotes.quoting import QuotedScan, refuse_unaffordable
from unet_factory_service.segmentations.capacity import check_capacity, too_many_jobs, too_much_stored
from unet_factory_service.segmentations.dicom_upload import as_one_series
from unet_factory_service.segmentations.idempotency import reserve
from unet_factory_service.segmentations.planned_deliveries import planned_deliveries, planned_fetch, receivers
from unet_factory_service.segmentations.upload import ReceivedScan

log = logging.getLogger(__name__)

DICOM_INPUT = "input.zip"

_OUTCOME_UNKNOWN = (RedisConnectionError, RedisTimeoutError)  # it was done, or was not: the answer is lost
_GZIP_MAGIC = b"\x1f\x8b"
_EXTENSIONS = {"nifti": "nii", "mha": "mha", "nrrd": "nrrd"}


class _Accepted(NamedTuple):
    job: Job
    request: SegmentationRequest


def submit(
    gateway: GatewayContext,
    parameters: SegmentationParameters,
    scan: ReceivedScan | None,
    idempotency_key: str | None,
    caller: Caller = ANYBODY,
) -> Job:
    """The caller's new job; where a key is given (as it is stored), that of an earlier request of the same content.

    Args:
        scan: None where the parameters name a series in an archive, which a courier then fetches.

    Raises:
        FactoryError: what is wrong with the parameters or the scan; QueueFull; QuotaExceeded; IdempotencyConflict.
            Nothing is kept then.
    """
    model, limits = gateway.registry.get(parameters.model), gateway.settings.volume_limits
    if scan is None:
        accepted = _accept(gateway, parameters, model)
    else:
        if sniff_format(scan.file, limits) == "dicom":
            scan = as_one_series(scan, parameters.series_uid, limits)
        elif parameters.series_uid is not None:
            raise MalformedRequest("series_uid chooses among DICOM series, but the file is not DICOM; leave it out")
        accepted = _accept_upload(gateway, parameters, model, scan)
    if idempotency_key is None:
        _enqueue(gateway, accepted, scan, caller)
        return accepted.job
    return _enqueue_once(gateway, accepted, scan, caller, idempotency_key)


def _accept_upload(
    gateway: GatewayContext, asked: SegmentationParameters, model: RegisteredModel, scan: ReceivedScan
) -> _Accepted:
    header = read_header(
        scan.file,
        limits=gateway.settings.volume_limits,
        spacing_ras_mm=asked.spacing_ras_mm,
        choice=asked.image_choice,
    )
    header.check_referable()
    try:
        plan = plan_spacing(header.spacing_ras_mm, model.manifest.grid, asked.outside, asked.working_spacing_mm)
    except SpacingOutOfRange:
        SPACING_OUT_OF_RANGE.labels(model.manifest.name).inc()
        raise
    check_working_size(header.shape_ras, plan, gateway.settings.max_voxels)
    refuse_unaffordable(gateway, model, _quoted(header, asked), asked.budget)
    implausible = _judged(header, asked, model)
    job, request = _accept(gateway, asked, model, _input_name(scan.file, header), dicom=header.format == "dicom")
    policy = PolicyReport(outside=asked.outside, out_of_range=plan.out_of_range)
    spacing = Spacings(native=header.spacing_ras_mm, requested=asked.working_spacing_mm)
    found = {"policy": policy, "spacing": spacing, "notes": header.notes, "implausible": implausible}
    return _Accepted(job.model_copy(update=found), request)


def _quoted(header: VolumeHeader, asked: SegmentationParameters) -> QuotedScan:
    return QuotedScan(
        header.shape_ras,
        header.spacing_ras_mm,
        asked.working_spacing_mm,
        asked.outside,
        dicom=header.format == "dicom",
        mirroring=asked.mirroring,
        progressive=asked.progressive,
    )


def _judged(header: VolumeHeader, asked: SegmentationParameters, model: RegisteredModel) -> tuple[Finding, ...]:
    """What is known at once, before any time is spent on the scan; a worker checks the volumes.

    Raises:
        Implausible: the field of view is, and the caller wants none such.
    """
    findings = field_of_view_findings(model.manifest.seen, header.shape_ras, header.spacing_ras_mm)
    try:
        refuse_implausible(asked.implausible, findings, model.manifest.name)
    except Implausible:
        IMPLAUSIBLE_RESULTS.labels(model.manifest.name).inc()
        raise
    return findings


def _accept(
    gateway: GatewayContext,
    asked: SegmentationParameters,
    model: RegisteredModel,
    input_name: str = DICOM_INPUT,
    *,
    dicom: bool = True,
) -> _Accepted:
    """As far as is known without the scan: a courier checks one that is fetched from an archive."""
    if not dicom and "seg_type" in asked.model_fields_set:
        raise NotSupported("a DICOM segmentation (seg_type) needs a DICOM series; ask for a NIfTI or NRRD label map")
    now = time.time()
    send_to = receivers(gateway.destinations, asked, dicom=dicom)
    series = archived_series(asked)
    conditions = snap_conditions(model.manifest.conditions, asked.conditions)
    request = SegmentationRequest(
        **asked.options(),
        model=model.manifest.name,
        checkpoint_digest=model.digest,
        pinned="@" in (asked.model or ""),
        input_name=input_name,
        conditions=conditions,
        deadline_s=gateway.settings.job_deadline_s,
        series=series,
        send_to=send_to,
        callback_url=asked.callback_url,
        origin=origin_of_new_work(),
    )
    job = Job(
        id=new_job_id(),
        model=model.manifest.name,
        policy=PolicyReport(outside=asked.outside),
        spacing=Spacings(requested=asked.working_spacing_mm),
        dicom=dicom,
        conditions=named_conditions(model.manifest.conditions, conditions),
        mirrored_axes=model.manifest.axes_to_mirror(wanted=asked.mirroring),
        created=now,
        expires=now + gateway.settings.retention_s,
        fetch=planned_fetch(gateway.destinations, series),
        deliveries=planned_deliveries(gateway.destinations, send_to, asked.callback_url),
    )
    return _Accepted(job, request)


def _enqueue_once(
    gateway: GatewayContext, accepted: _Accepted, scan: ReceivedScan | None, caller: Caller, key: str
) -> Job:
    earlier = reserve(
        gateway.jobs, key, _fingerprint(accepted.request, scan), accepted.job.id, gateway.settings.retention_s
    )
    if earlier is not None:
        return earlier
    try:
        _enqueue(gateway, accepted, scan, caller, key)
    except _OUTCOME_UNKNOWN:  # the same request, sent again, waits for the record, and goes on if there is none
        raise
    except BaseException:
        gateway.jobs.forget(key, accepted.job.id)
        raise
    return accepted.job


def _enqueue(
    gateway: GatewayContext, accepted: _Accepted, scan: ReceivedScan | None, caller: Caller, key: str | None = None
) -> None:
    """Store, record, send, in this order: once it is recorded, the job survives a lost message.

    One whose scan lies in an archive is only recorded: a courier sends it once the scan is here.
    """
    check_capacity(gateway)
    job_id = accepted.job.id
    if caller.jobs_in_flight and not gateway.jobs.reserve(caller.owner, job_id, caller.jobs_in_flight):
        raise too_many_jobs(caller)
    try:
        _store(gateway, accepted, scan, caller, key)
    except _OUTCOME_UNKNOWN:  # the job may be recorded, and needs its scan; if not, maintenance sweeps the scan up
        raise
    except BaseException:
        if caller.jobs_in_flight:
            gateway.jobs.release(caller.owner, job_id)
        gateway.blobs.delete(job_id)
        raise
    add_log_field("job", job_id)
    log.info("job %s was accepted", job_id)
    if accepted.job.fetch is not None:
        return
    try:
        gateway.queue.send_segmentation(job_id)
    except QueueUnavailable:
        log.warning("job %s is recorded but could not be sent; maintenance will send it", job_id)


def _store(
    gateway: GatewayContext, accepted: _Accepted, scan: ReceivedScan | None, caller: Caller, key: str | None
) -> None:
    """Put down the scan, then record the job and how much its upload takes up, at one stroke."""
    upload_bytes = 0
    if scan is not None:
        upload_bytes = scan.file.stat().st_size
        gateway.blobs.put(accepted.job.id, accepted.request.input_name, scan.file)
    if not gateway.jobs.create(
        accepted.job,
        accepted.request,
        owner=caller.owner,
        idempotency_key=key,
        upload_bytes=upload_bytes,
        allowed_bytes=caller.stored_bytes,
    ):
        raise too_much_stored(gateway, caller, upload_bytes)
    try:
        await_replicas(gateway.redis, gateway.settings.redis_replicas)
    except StorageUnavailable:
        gateway.lifecycle.purge(accepted.job.id)
        raise


def _fingerprint(request: SegmentationRequest, scan: ReceivedScan | None) -> str:
    """Of the request as understood and of the file's bytes; a replaced checkpoint does not make it another request."""
    passing = {"deadline_s", "origin"} if request.pinned else {"checkpoint_digest", "deadline_s", "origin"}
    parameters = request.model_dump_json(exclude=passing)
    return hashlib.sha256(f"{parameters} {scan.sha256 if scan else ''}".encode()).hexdigest()


def _input_name(file: Path, header: VolumeHeader) -> str:
    if header.format == "dicom":
        return DICOM_INPUT
    with file.open("rb") as opened:
        zipped = ".gz" if opened.read(2) == _GZIP_MAGIC else ""
    return f"input.{_EXTENSIONS[header.format]}{zipped}"


def archived_series(parameters: SegmentationParameters) -> PacsSeries | None:
    """The series in an archive that is to be segmented; None where the scan is uploaded."""
    pacs, study_uid, series_uid = parameters.pacs, parameters.study_uid, parameters.series_uid
    if pacs is None or study_uid is None or series_uid is None:
        return None
    return PacsSeries(pacs=pacs, study_uid=study_uid, series_uid=series_uid)
