"""QIDO-RS (PS3.18 section 10.6): search for the objects that jobs made."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from unet_factory.domain.uids import unpadded
from unet_factory_service.access.callers import Caller, CallerDependency
from unet_factory_service.dependencies import GatewayContext, GatewayDependency
from unet_factory_service.dicomweb.accept import DICOM_JSON, check_accepts
from unet_factory_service.dicomweb.dicom_json import Attributes, attribute, chosen, text
from unet_factory_service.dicomweb.matching import Search, values_of
from unet_factory_service.dicomweb.results import (
    INSTANCE_ATTRIBUTES,
    SERIES_ATTRIBUTES,
    STUDY_ATTRIBUTES,
    StoredInstance,
)
from unet_factory_service.documentation import Responses, problems
from unet_factory_service.public_url import public_base

router = APIRouter(prefix="/dicomweb", tags=["dicomweb"])

_FOUND: Responses = {
    200: {"content": {DICOM_JSON: {"schema": {"type": "array", "items": {"type": "object"}}}}, "description": "Found"}
}
_RESPONSES = _FOUND | problems(400, 406, 503)

Group = Sequence[Attributes]

_SERIES_KEY = ("StudyInstanceUID", "SeriesInstanceUID")
_INSTANCE_KEY = (*_SERIES_KEY, "SOPInstanceUID")


@router.get("/studies", operation_id="search_studies", summary="Search studies", responses=_RESPONSES)
def search_studies(request: Request, gateway: GatewayDependency, caller: CallerDependency) -> Response:
    return _answer(request, gateway, caller, "studies")


@router.get("/series", operation_id="search_series", summary="Search series", responses=_RESPONSES)
def search_series(request: Request, gateway: GatewayDependency, caller: CallerDependency) -> Response:
    return _answer(request, gateway, caller, "series")


@router.get(
    "/studies/{study}/series", operation_id="search_series_of_study", summary="Search series", responses=_RESPONSES
)
def search_series_of_study(
    study: str, request: Request, gateway: GatewayDependency, caller: CallerDependency
) -> Response:
    return _answer(request, gateway, caller, "series", study)


@router.get("/instances", operation_id="search_instances", summary="Search instances", responses=_RESPONSES)
def search_instances(request: Request, gateway: GatewayDependency, caller: CallerDependency) -> Response:
    return _answer(request, gateway, caller, "instances")


@router.get(
    "/studies/{study}/instances",
    operation_id="search_instances_of_study",
    summary="Search instances",
    responses=_RESPONSES,
)
def search_instances_of_study(
    study: str, request: Request, gateway: GatewayDependency, caller: CallerDependency
) -> Response:
    return _answer(request, gateway, caller, "instances", study)


@router.get(
    "/studies/{study}/series/{series}/instances",
    operation_id="search_instances_of_series",
    summary="Search instances",
    responses=_RESPONSES,
)
def search_instances_of_series(
    study: str, series: str, request: Request, gateway: GatewayDependency, caller: CallerDependency
) -> Response:
    return _answer(request, gateway, caller, "instances", study, series)


def _answer(
    request: Request,
    gateway: GatewayContext,
    caller: Caller,
    level: str,
    study: str | None = None,
    series: str | None = None,
) -> Response:
    """One entry for each group of objects that the level puts together, a page of them."""
    check_accepts(request, DICOM_JSON, "application/json")
    search = Search.of(request, level)
    study, series = (uid and unpadded(uid) for uid in (study, series))
    key, describe = _LEVELS[level]
    studies = gateway.results.studies(caller, study or search.study_uid)
    groups = (group for found in studies for group in _groups(found, key))
    matching = (
        group
        for group in groups
        if series in (None, text(group[0], "SeriesInstanceUID")) and any(map(search.holds, group))
    )
    page = list(islice(matching, search.offset, search.offset + search.limit))
    more = {"Warning": '299 - "more results can be requested"'} if next(matching, None) is not None else {}
    base_url = f"{public_base(request)}{router.prefix}"
    body = [describe(group, base_url) for group in page]
    return JSONResponse(body, 200, headers=more | {"Cache-Control": "private, no-store"}, media_type=DICOM_JSON)


def _groups(found: Iterable[StoredInstance], key: tuple[str, ...]) -> list[Group]:
    groups: dict[tuple[str, ...], list[Attributes]] = defaultdict(list)
    for instance in found:
        groups[tuple(instance.uid(keyword) for keyword in key)].append(instance.header)
    return [group for _, group in sorted(groups.items())]


def _study(group: Group, base_url: str) -> dict[str, Any]:
    return {
        **_entry(group[0], STUDY_ATTRIBUTES, f"{base_url}/studies/{text(group[0], 'StudyInstanceUID')}"),
        **attribute("ModalitiesInStudy", *values_of(group, "Modality")),
        **attribute("NumberOfStudyRelatedSeries", len(values_of(group, "SeriesInstanceUID"))),
        **attribute("NumberOfStudyRelatedInstances", len(group)),
    }


def _series(group: Group, base_url: str) -> dict[str, Any]:
    study, series = (text(group[0], keyword) for keyword in _SERIES_KEY)
    return {
        **_entry(group[0], STUDY_ATTRIBUTES + SERIES_ATTRIBUTES, f"{base_url}/studies/{study}/series/{series}"),
        **attribute("NumberOfSeriesRelatedInstances", len(group)),
    }


def _instance(group: Group, base_url: str) -> dict[str, Any]:
    study, series, instance = (text(group[0], keyword) for keyword in _INSTANCE_KEY)
    url = f"{base_url}/studies/{study}/series/{series}/instances/{instance}"
    return _entry(group[0], STUDY_ATTRIBUTES + SERIES_ATTRIBUTES + INSTANCE_ATTRIBUTES, url)


def _entry(header: Attributes, keywords: Iterable[str], retrieve_url: str) -> dict[str, Any]:
    return {
        **chosen(header, ("SpecificCharacterSet", *keywords)),
        **attribute("InstanceAvailability", "ONLINE"),
        **attribute("RetrieveURL", retrieve_url),
    }


_LEVELS: Mapping[str, tuple[tuple[str, ...], Callable[[Group, str], dict[str, Any]]]] = {
    "studies": (("StudyInstanceUID",), _study),
    "series": (_SERIES_KEY, _series),
    "instances": (_INSTANCE_KEY, _instance),
}
