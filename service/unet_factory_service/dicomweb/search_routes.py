"""QIDO-RS (PS3.18 section 10.6): search for the objects that jobs made."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydicom import Dataset

from unet_factory_service.access.callers import Caller, CallerDependency
from unet_factory_service.dependencies import GatewayContext, GatewayDependency
from unet_factory_service.dicomweb.accept import DICOM_JSON, check_accepts
from unet_factory_service.dicomweb.matching import Search, values_of
from unet_factory_service.dicomweb.results import (
    INSTANCE_ATTRIBUTES,
    SERIES_ATTRIBUTES,
    STUDY_ATTRIBUTES,
    StoredInstance,
)
from unet_factory_service.documentation import Responses, problems

router = APIRouter(prefix="/dicomweb", tags=["dicomweb"])

_FOUND: Responses = {
    200: {"content": {DICOM_JSON: {"schema": {"type": "array", "items": {"type": "object"}}}}, "description": "Found"}
}
_RESPONSES = _FOUND | problems(400, 406, 503)

Group = Sequence[Dataset]


@router.get("/studies", operation_id="search_studies", summary="Search studies", responses=_RESPONSES)
def search_studies(request: Request, gateway: GatewayDependency, caller: CallerDependency) -> Response:
    return _answer(request, "studies", _found(gateway, caller, None), ("StudyInstanceUID",), _study)


@router.get("/series", operation_id="search_series", summary="Search series", responses=_RESPONSES)
def search_series(request: Request, gateway: GatewayDependency, caller: CallerDependency) -> Response:
    return _answer(request, "series", _found(gateway, caller, None), _SERIES_KEY, _series)


@router.get(
    "/studies/{study}/series", operation_id="search_series_of_study", summary="Search series", responses=_RESPONSES
)
def search_series_of_study(
    study: str, request: Request, gateway: GatewayDependency, caller: CallerDependency
) -> Response:
    return _answer(request, "series", _found(gateway, caller, study), _SERIES_KEY, _series)


@router.get("/instances", operation_id="search_instances", summary="Search instances", responses=_RESPONSES)
def search_instances(request: Request, gateway: GatewayDependency, caller: CallerDependency) -> Response:
    return _answer(request, "instances", _found(gateway, caller, None), _INSTANCE_KEY, _instance)


@router.get(
    "/studies/{study}/instances",
    operation_id="search_instances_of_study",
    summary="Search instances",
    responses=_RESPONSES,
)
def search_instances_of_study(
    study: str, request: Request, gateway: GatewayDependency, caller: CallerDependency
) -> Response:
    return _answer(request, "instances", _found(gateway, caller, study), _INSTANCE_KEY, _instance)


@router.get(
    "/studies/{study}/series/{series}/instances",
    operation_id="search_instances_of_series",
    summary="Search instances",
    responses=_RESPONSES,
)
def search_instances_of_series(
    study: str, series: str, request: Request, gateway: GatewayDependency, caller: CallerDependency
) -> Response:
    found = [header for header in _found(gateway, caller, study) if header.SeriesInstanceUID == series]
    return _answer(request, "instances", found, _INSTANCE_KEY, _instance)


_SERIES_KEY = ("StudyInstanceUID", "SeriesInstanceUID")
_INSTANCE_KEY = (*_SERIES_KEY, "SOPInstanceUID")


def _found(gateway: GatewayContext, caller: Caller, study_uid: str | None) -> list[Dataset]:
    instances: list[StoredInstance] = gateway.results.instances(caller, study_uid)
    return [instance.header for instance in instances]


def _answer(
    request: Request,
    level: str,
    headers: Iterable[Dataset],
    key: tuple[str, ...],
    describe: Callable[[Group, str], Dataset],
) -> Response:
    """One entry for each group of objects that the level puts together, a page of them."""
    check_accepts(request, DICOM_JSON, "application/json")
    search = Search.of(request, level)
    groups: dict[tuple[str, ...], list[Dataset]] = defaultdict(list)
    for header in headers:
        groups[tuple(str(header.get(keyword)) for keyword in key)].append(header)
    found = [group for _, group in sorted(groups.items()) if any(search.holds(header) for header in group)]
    page = found[search.offset : search.offset + search.limit]
    base_url = f"{str(request.base_url).rstrip('/')}{router.prefix}"
    body: list[dict[str, Any]] = [describe(group, base_url).to_json_dict() for group in page]
    remaining = len(found) - search.offset - len(page)
    more = {"Warning": f'299 - "{remaining} more results can be requested"'} if remaining > 0 else {}
    headers_ = more | {"Cache-Control": "private, no-store"}
    return JSONResponse(body, 200, headers=headers_, media_type=DICOM_JSON)


def _study(group: Group, base_url: str) -> Dataset:
    entry = _entry(group[0], STUDY_ATTRIBUTES, f"{base_url}/studies/{group[0].StudyInstanceUID}")
    entry.ModalitiesInStudy = values_of(group, "Modality")
    entry.NumberOfStudyRelatedSeries = len(values_of(group, "SeriesInstanceUID"))
    entry.NumberOfStudyRelatedInstances = len(group)
    return entry


def _series(group: Group, base_url: str) -> Dataset:
    url = f"{base_url}/studies/{group[0].StudyInstanceUID}/series/{group[0].SeriesInstanceUID}"
    entry = _entry(group[0], STUDY_ATTRIBUTES + SERIES_ATTRIBUTES, url)
    entry.NumberOfSeriesRelatedInstances = len(group)
    return entry


def _instance(group: Group, base_url: str) -> Dataset:
    one = group[0]
    url = f"{base_url}/studies/{one.StudyInstanceUID}/series/{one.SeriesInstanceUID}/instances/{one.SOPInstanceUID}"
    return _entry(one, STUDY_ATTRIBUTES + SERIES_ATTRIBUTES + INSTANCE_ATTRIBUTES, url)


def _entry(header: Dataset, keywords: Iterable[str], retrieve_url: str) -> Dataset:
    entry = Dataset()
    for keyword in ("SpecificCharacterSet", *keywords):
        if keyword in header:
            entry.add(header[keyword])
    entry.InstanceAvailability = "ONLINE"
    entry.RetrieveURL = retrieve_url
    return entry
