"""STOW-RS (PS3.18 section 10.5): instances are put down one by one; one that cannot be used costs no other."""

import logging
from collections import Counter
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydicom import FileDataset
from starlette.concurrency import run_in_threadpool

from unet_factory.domain.errors import NotAVolume, StorageFull, StorageUnavailable, VolumeTooLarge
from unet_factory.domain.uids import read_uid, uid_digest, unpadded
from unet_factory.domain.volume_limits import VolumeLimits
from unet_factory.platform.metrics import RECEIVED_INSTANCES
from unet_factory.platform.redis_clients import await_replicas
from unet_factory.volume.dicom.objects import read_object, readable
from unet_factory_service.access.callers import Caller, CallerDependency
from unet_factory_service.dependencies import GatewayContext, GatewayDependency
from unet_factory_service.dicomweb.accept import DICOM_JSON, check_accepts
from unet_factory_service.dicomweb.received import series_id_of
from unet_factory_service.dicomweb.store_answer import FailedInstance, FailureReason, Instance, store_answer
from unet_factory_service.documentation import Responses, problems
from unet_factory_service.segmentations.capacity import check_capacity, too_much_stored
from unet_factory_service.segmentations.dicom_upload import receive_dicom_parts

log = logging.getLogger(__name__)

router = APIRouter(prefix="/dicomweb", tags=["dicomweb"])

_Found = tuple[Path, Instance | FailedInstance]

_UIDS = ["StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"]
_TOLD_TWICE = {"MediaStorageSOPInstanceUID": "SOPInstanceUID", "MediaStorageSOPClassUID": "SOPClassUID"}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            'multipart/related; type="application/dicom"': {
                "schema": {"type": "array", "items": {"type": "string", "format": "binary"}}
            },
            "application/dicom": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_DOCUMENT = {DICOM_JSON: {"schema": {"type": "object"}}}
_ANSWERS: Responses = {
    200: {"content": _DOCUMENT, "description": "All instances were stored"},
    202: {"content": _DOCUMENT, "description": "Some instances were stored; the answer says which were not, and why"},
    409: {"content": _DOCUMENT, "description": "No instance was stored; the answer says why"},
}
_RESPONSES = _ANSWERS | problems(400, 406, 413, 415, 429, 503, 507)


@router.post(
    "/studies",
    operation_id="store_instances",
    summary="Store instances (STOW-RS); a complete series becomes a job if one of the operator's rules matches",
    response_class=Response,
    openapi_extra=_BODY,
    responses=_RESPONSES,
)
async def store_instances(request: Request, gateway: GatewayDependency, caller: CallerDependency) -> Response:
    return await _store(request, gateway, caller, None)


@router.post(
    "/studies/{study}",
    operation_id="store_instances_of_study",
    summary="Store instances of one study (STOW-RS)",
    response_class=Response,
    openapi_extra=_BODY,
    responses=_RESPONSES,
)
async def store_instances_of_study(
    study: str, request: Request, gateway: GatewayDependency, caller: CallerDependency
) -> Response:
    """Instances of other studies are refused, one by one."""
    return await _store(request, gateway, caller, unpadded(study))


async def _store(request: Request, gateway: GatewayContext, caller: Caller, study_uid: str | None) -> Response:
    check_accepts(request, DICOM_JSON, "application/json")
    await run_in_threadpool(check_capacity, gateway, caller)
    with gateway.blobs.scratch() as folder:
        files = await receive_dicom_parts(request, folder, gateway.settings.max_upload_bytes, gateway.check_room)
        status, answer = await gateway.checking.run(caller.owner, _put_down, gateway, files, study_uid, caller)
    return JSONResponse(answer, status, media_type=DICOM_JSON)


def _put_down(
    gateway: GatewayContext, files: list[Path], study_uid: str | None, caller: Caller
) -> tuple[int, dict[str, object]]:
    """Whatever is answered as stored lies on the disk and will be looked at, even if this process dies now.

    Raises:
        QuotaExceeded: more would be stored for the caller than is allowed; nothing was stored.
        StorageUnavailable: some were not stored, as the store is away; all may be sent again.
    """
    owner = caller.owner
    found = [(file, _identify(file, study_uid, gateway.settings.volume_limits)) for file in files]
    series_ids = {series_id_of(i.study_uid, i.series_uid, owner) for _, i in found if isinstance(i, Instance)}
    gateway.received.announce(series_ids, owner)
    grown_bytes = _take_bytes(gateway, found, caller)
    outcomes = _put_all(gateway, found, grown_bytes, owner)
    gateway.received.announce(series_ids, owner)
    await_replicas(gateway.redis, gateway.settings.redis_replicas)
    stored = [outcome for outcome in outcomes if isinstance(outcome, Instance)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, FailedInstance)]
    RECEIVED_INSTANCES.labels("stored").inc(len(stored))
    RECEIVED_INSTANCES.labels("failed").inc(len(failed))
    if failed:
        log.warning("%d of %d instances could not be stored", len(failed), len(files))
    return store_answer(stored, failed)


def _take_bytes(gateway: GatewayContext, found: list[_Found], caller: Caller) -> list[int]:
    """Count what is to be stored; returns how much each file adds."""
    wanted: Counter[str] = Counter()
    grown_bytes: list[int] = []
    for file, instance in found:
        grown_bytes.append(0)
        if isinstance(instance, Instance):
            series_id = series_id_of(instance.study_uid, instance.series_uid, caller.owner)
            instance_id = uid_digest(instance.sop_instance_uid)
            grown_bytes[-1] = gateway.received.grown_bytes(series_id, instance_id, file)
            wanted[series_id] += grown_bytes[-1]
    taken: list[str] = []
    for series_id, wanted_bytes in wanted.items():
        if not gateway.received.take_bytes(series_id, caller.owner, wanted_bytes, caller.stored_bytes):
            for earlier in taken:
                gateway.received.take_bytes(earlier, caller.owner, -wanted[earlier], 0)
            raise too_much_stored(gateway, caller, wanted.total())
        taken.append(series_id)
    return grown_bytes


def _put_all(
    gateway: GatewayContext, found: list[_Found], grown_bytes: list[int], owner: str
) -> list[Instance | FailedInstance]:
    outcomes: list[Instance | FailedInstance] = []
    for (file, instance), grown in zip(found, grown_bytes, strict=True):
        if isinstance(instance, Instance):
            series_id = series_id_of(instance.study_uid, instance.series_uid, owner)
            try:
                gateway.received.put(series_id, uid_digest(instance.sop_instance_uid), file)
            except StorageFull:
                gateway.received.take_bytes(series_id, owner, -grown, 0)
                instance = FailedInstance(instance, FailureReason.OUT_OF_RESOURCES)
            except StorageUnavailable:
                for (_, other), taken in zip(found[len(outcomes) :], grown_bytes[len(outcomes) :], strict=True):
                    if isinstance(other, Instance):
                        other_id = series_id_of(other.study_uid, other.series_uid, owner)
                        gateway.received.take_bytes(other_id, owner, -taken, 0)
                raise
        outcomes.append(instance)
    return outcomes


def _identify(file: Path, study_uid: str | None, limits: VolumeLimits) -> Instance | FailedInstance:
    """Who the instance in a file is, or why it cannot be stored; its pixels are looked at when its job starts."""
    try:
        with file.open("rb") as opened, readable("the instance"):
            header = read_object(opened, limits).dataset
            study, series, sop_class, sop_instance = (read_uid(str(header.get(keyword) or "")) for keyword in _UIDS)
            is_told_alike = _is_told_alike(header)
    except (NotAVolume, VolumeTooLarge):
        return FailedInstance(None, FailureReason.CANNOT_UNDERSTAND)
    if sop_class is None or sop_instance is None:
        return FailedInstance(None, FailureReason.CANNOT_UNDERSTAND)
    instance = Instance(study or "", series or "", sop_class, sop_instance)
    if not (study and series and is_told_alike) or study_uid not in (None, study):
        return FailedInstance(instance, FailureReason.DOES_NOT_MATCH)
    return instance


def _is_told_alike(header: FileDataset) -> bool:
    """A file's meta information must speak of the instance in it (PS3.10 section 7.1)."""
    return all(
        keyword not in header.file_meta
        or unpadded(str(header.file_meta[keyword].value)) == unpadded(str(header.get(inner)))
        for keyword, inner in _TOLD_TWICE.items()
    )
