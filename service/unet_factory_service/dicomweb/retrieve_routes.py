"""WADO-RS (PS3.18 section 10.4): the objects that jobs made, and their metadata."""

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

from unet_factory.domain.errors import JobExpired
from unet_factory.domain.uids import unpadded
from unet_factory_service.dependencies import GatewayContext, GatewayDependency
from unet_factory_service.dicomweb.accept import DICOM, DICOM_JSON, MULTIPART, OCTETS, check_accepts
from unet_factory_service.dicomweb.dicom_json import dicom_json
from unet_factory_service.dicomweb.frames import StoredFrames
from unet_factory_service.dicomweb.results import ResultIndex, StoredInstance
from unet_factory_service.documentation import Responses, file_of, problems

router = APIRouter(prefix="/dicomweb", tags=["dicomweb"])

_PRIVATE = {"Cache-Control": "private, no-store"}
_FOUND: Responses = {
    200: {"content": {DICOM_JSON: {"schema": {"type": "array", "items": {"type": "object"}}}}, "description": "Found"}
}
_FILES: Responses = {200: file_of('multipart/related; type="application/dicom"', "The objects")}
_PIXELS: Responses = {200: file_of(f'multipart/related; type="{OCTETS}"', "The frames")}
_FRAMES = _PIXELS | problems(400, 404, 406, 410, 503)
_NOT_RENDERED = problems(400, 404, 501, 503)
_METADATA = _FOUND | problems(404, 406, 410, 503)
_OBJECTS = _FILES | problems(404, 406, 410, 503)


def _wanted(
    request: Request, gateway: GatewayContext, study: str, series: str | None = None, instance: str | None = None
) -> list[StoredInstance]:
    """What the path names; UIDs in it are the asker's, so no answer repeats them."""
    series, instance = (uid and unpadded(uid) for uid in (series, instance))
    found = [
        stored
        for stored in gateway.results.instances(request.state.caller, unpadded(study))
        if series in (None, stored.uid("SeriesInstanceUID")) and instance in (None, stored.uid("SOPInstanceUID"))
    ]
    if not found:
        raise HTTPException(404, "the results have no such object; results are deleted when their jobs expire")
    request.state.job_ids = sorted({stored.job_id for stored in found})
    return found


def _of_study(request: Request, gateway: GatewayDependency, study: str) -> list[StoredInstance]:
    return _wanted(request, gateway, study)


def _of_series(request: Request, gateway: GatewayDependency, study: str, series: str) -> list[StoredInstance]:
    return _wanted(request, gateway, study, series)


def _of_instance(
    request: Request, gateway: GatewayDependency, study: str, series: str, instance: str
) -> list[StoredInstance]:
    return _wanted(request, gateway, study, series, instance)


OfStudy = Annotated[list[StoredInstance], Depends(_of_study)]
OfSeries = Annotated[list[StoredInstance], Depends(_of_series)]
OfInstance = Annotated[list[StoredInstance], Depends(_of_instance)]

_STUDY = "/studies/{study}"
_SERIES = f"{_STUDY}/series/{{series}}"
_INSTANCE = f"{_SERIES}/instances/{{instance}}"


@router.get(_STUDY, operation_id="retrieve_study", response_class=Response, responses=_OBJECTS)
def retrieve_study(request: Request, found: OfStudy, gateway: GatewayDependency) -> Response:
    return _objects(request, found, gateway.results)


@router.get(_SERIES, operation_id="retrieve_series", response_class=Response, responses=_OBJECTS)
def retrieve_series(request: Request, found: OfSeries, gateway: GatewayDependency) -> Response:
    return _objects(request, found, gateway.results)


@router.get(_INSTANCE, operation_id="retrieve_instance", response_class=Response, responses=_OBJECTS)
def retrieve_instance(request: Request, found: OfInstance, gateway: GatewayDependency) -> Response:
    return _objects(request, found, gateway.results)


@router.get(f"{_STUDY}/metadata", operation_id="study_metadata", responses=_METADATA)
def study_metadata(request: Request, found: OfStudy, gateway: GatewayDependency) -> Response:
    return _metadata(request, found, gateway.results)


@router.get(f"{_SERIES}/metadata", operation_id="series_metadata", responses=_METADATA)
def series_metadata(request: Request, found: OfSeries, gateway: GatewayDependency) -> Response:
    return _metadata(request, found, gateway.results)


@router.get(f"{_INSTANCE}/metadata", operation_id="instance_metadata", responses=_METADATA)
def instance_metadata(request: Request, found: OfInstance, gateway: GatewayDependency) -> Response:
    return _metadata(request, found, gateway.results)


@router.get(
    f"{_INSTANCE}/frames/{{frames}}", operation_id="retrieve_frames", response_class=Response, responses=_FRAMES
)
def retrieve_frames(request: Request, found: OfInstance, frames: str, gateway: GatewayDependency) -> Response:
    """Pixels of some frames (``1,2,5``), as they are stored: in one bit, where the segmentation is binary."""
    check_accepts(request, MULTIPART, part_type=OCTETS)
    numbers = _frame_numbers(frames)
    with _file(gateway.results, found[0]) as path:
        pixels = StoredFrames(dcmread(path))
    if bad := [number for number in numbers if not 1 <= number <= pixels.count]:
        raise HTTPException(404, f"the instance has no frame {bad[0]}; it has {pixels.count}")
    if len(numbers) > pixels.count:
        raise HTTPException(400, f"the path names {len(numbers)} frames; the instance has {pixels.count}")
    boundary, syntax = secrets.token_hex(16), f"{OCTETS}; transfer-syntax={ExplicitVRLittleEndian}"
    parts = [_part(pixels.frame(number), boundary, syntax) for number in numbers]
    media_type = f'{MULTIPART}; type="{OCTETS}"; boundary={boundary}'
    return Response(b"".join([*parts, _end(boundary)]), headers=_PRIVATE, media_type=media_type)


@router.get(f"{_STUDY}/rendered", operation_id="render_study", responses=_NOT_RENDERED)
def render_study(found: OfStudy) -> Response:
    raise _not_rendered(found)


@router.get(f"{_SERIES}/rendered", operation_id="render_series", responses=_NOT_RENDERED)
def render_series(found: OfSeries) -> Response:
    raise _not_rendered(found)


@router.get(f"{_INSTANCE}/rendered", operation_id="render_instance", responses=_NOT_RENDERED)
def render_instance(found: OfInstance) -> Response:
    raise _not_rendered(found)


@router.get(f"{_INSTANCE}/frames/{{frames}}/rendered", operation_id="render_frames", responses=_NOT_RENDERED)
def render_frames(found: OfInstance, frames: str) -> Response:
    _frame_numbers(frames)
    raise _not_rendered(found)


def _not_rendered(found: Sequence[StoredInstance]) -> HTTPException:
    """Segmentations and reports are drawn by viewers, which know the scan that they belong to."""
    detail = (
        f"results are not rendered here: retrieve the {len(found)} object(s) or frames and draw them, or use"
        " /segmentations/ID/preview.png"
    )
    return HTTPException(501, detail)


def _frame_numbers(text: str) -> list[int]:
    entries = text.split(",")
    if not all(re.fullmatch(r"[0-9]{1,9}", entry) for entry in entries):
        raise HTTPException(400, "the path must name frames by their numbers, such as 1,2,5")
    return [int(entry) for entry in entries]


def _objects(request: Request, found: Sequence[StoredInstance], results: ResultIndex) -> Response:
    """As they are stored: nothing is transcoded. A single object may be asked for without the multipart around it."""
    if len(found) == 1 and check_accepts(request, MULTIPART, DICOM) == DICOM:
        return Response(_content(results, found[0]), headers=_PRIVATE, media_type=DICOM)
    check_accepts(request, MULTIPART)
    boundary = secrets.token_hex(16)
    media_type = f'{MULTIPART}; type="{DICOM}"; boundary={boundary}'
    first = _content(results, found[0])  # what is gone is a problem, as long as it can still be said
    return StreamingResponse(_parts(results, first, found[1:], boundary), headers=_PRIVATE, media_type=media_type)


def _parts(results: ResultIndex, first: bytes, others: Sequence[StoredInstance], boundary: str) -> Iterator[bytes]:
    yield _part(first, boundary)
    for instance in others:
        yield _part(_content(results, instance), boundary)
    yield _end(boundary)


def _part(content: bytes, boundary: str, media_type: str = DICOM) -> bytes:
    head = f"--{boundary}\r\nContent-Type: {media_type}\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content + b"\r\n"


def _end(boundary: str) -> bytes:
    return f"--{boundary}--\r\n".encode()


def _metadata(request: Request, found: Sequence[StoredInstance], results: ResultIndex) -> Response:
    """All attributes but the pixels, in the DICOM JSON model."""
    check_accepts(request, DICOM_JSON, "application/json")
    return JSONResponse([_header(results, one) for one in found], headers=_PRIVATE, media_type=DICOM_JSON)


def _header(results: ResultIndex, instance: StoredInstance) -> dict[str, Any]:
    with _file(results, instance) as path:
        return dicom_json(dcmread(path, stop_before_pixels=True))


def _content(results: ResultIndex, instance: StoredInstance) -> bytes:
    with _file(results, instance) as path:
        return path.read_bytes()


@contextmanager
def _file(results: ResultIndex, instance: StoredInstance) -> Iterator[Path]:
    try:
        with results.file(instance) as path:
            yield path
    except FileNotFoundError as error:
        raise JobExpired("the result was purged") from error
