"""How every error is answered: as RFC 9457 ``application/problem+json``, with the status of its meaning."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from redis import exceptions as redis_errors
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

from unet_factory.domain import errors
from unet_factory.domain.errors import FactoryError
from unet_factory.domain.jobs import Problem
from unet_factory.domain.problems import TYPE_PREFIX, problem_of
from unet_factory.platform.redis_clients import log_level
from unet_factory_service import errors as gateway_errors
from unet_factory_service.errors import StoredProblem

log = logging.getLogger(__name__)

STATUS: Mapping[type[FactoryError], int] = {
    errors.MalformedRequest: 400,
    gateway_errors.Unauthenticated: 401,
    gateway_errors.ScopeMissing: 403,
    gateway_errors.RouteClosed: 403,
    errors.ModelUnknown: 404,
    errors.DeliveryUnknown: 404,
    errors.JobUnknown: 404,
    gateway_errors.NothingSegmented: 404,
    gateway_errors.NoPreview: 404,
    gateway_errors.NoCoarseLabelMap: 404,
    errors.JobCancelled: 409,
    gateway_errors.IdempotencyConflict: 409,
    gateway_errors.JobNotFinished: 409,
    gateway_errors.NoDicomResults: 409,
    errors.JobExpired: 410,
    errors.VolumeTooLarge: 413,
    errors.NotAVolume: 415,
    errors.SpacingInvalid: 422,
    errors.SpacingOutOfRange: 422,
    errors.ConditionInvalid: 422,
    errors.MemberInvalid: 422,
    errors.SpacingAmbiguous: 422,
    errors.GeometryInvalid: 422,
    errors.SeriesMixed: 422,
    errors.DicomIncomplete: 422,
    errors.SlicesInconsistent: 422,
    errors.SlicesAmbiguous: 422,
    errors.SlicesMissing: 422,
    errors.SlicesIrregular: 422,
    errors.SlicesTilted: 422,
    errors.NoContrast: 422,
    errors.Implausible: 422,
    errors.BudgetTooSmall: 422,
    errors.CallbackRefused: 422,
    errors.DestinationUnknown: 422,
    errors.SeriesNotFound: 422,
    gateway_errors.NotSupported: 422,
    gateway_errors.QueueFull: 429,
    gateway_errors.QuotaExceeded: 429,
    gateway_errors.InferenceByJobs: 501,
    errors.FetchFailed: 502,
    gateway_errors.NotReady: 503,
    errors.QueueUnavailable: 503,
    errors.StorageUnavailable: 503,
    errors.DeadlineExceeded: 504,
    errors.StorageFull: 507,
}
MEDIA_TYPE = "application/problem+json"

_STATUS_OF_TYPE = {TYPE_PREFIX + error.slug: status for error, status in STATUS.items()}
_QUOTED_CHARACTERS = 20
_RETRY_AFTER_S = {429: 5, 503: 2}
_AWAY = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.OutOfMemoryError,
    redis_errors.ReadOnlyError,
)


def install_problem_handlers(app: FastAPI) -> None:
    """Have the app answer every failure as a problem."""
    app.add_exception_handler(FactoryError, _on_factory_error)
    app.add_exception_handler(StoredProblem, _on_stored_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_client_gone)
    app.add_exception_handler(redis_errors.RedisError, _on_redis_error)


def problem_response(problem: Problem, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The facts in ``problem.details`` become members of the document; 429 and 503 say when to come back."""
    document = problem.details | {
        "type": problem.type,
        "title": problem.title,
        "status": status,
        "detail": problem.detail,
    }
    retry_after_s = problem.details.get("retry_after_s", _RETRY_AFTER_S.get(status))
    retry_after = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return JSONResponse(document, status, headers={**retry_after, **(headers or {})}, media_type=MEDIA_TYPE)


def error_response(error: FactoryError) -> JSONResponse:
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
    # what is refused before its body was read cannot be followed by another request on the same connection
    headers = {"Connection": "close"} if status in (401, 403, 413, 429) else {}
    if isinstance(error, gateway_errors.Unauthenticated | gateway_errors.ScopeMissing):
        headers["WWW-Authenticate"] = error.challenge
    return problem_response(problem_of(error), status, headers)


def unexpected_response() -> JSONResponse:
    """For an error nobody foresaw: its text and trace stay in the log."""
    return problem_response(_plain_problem(500, "an unexpected error; it was logged"), 500)


async def _on_factory_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FactoryError)
    return error_response(error)


async def _on_stored_problem(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StoredProblem)
    return problem_response(error.problem, _STATUS_OF_TYPE.get(error.problem.type, 500))


async def _on_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [_fault(entry) for entry in error.errors()]
    detail = "; ".join(f"{fault['where']}: {fault['what']}" for fault in faults)
    return error_response(errors.MalformedRequest(detail, faults=faults))


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers, detail = error.headers, str(error.detail)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"Allow": _allowed(request)}
        detail = f"this path allows {headers['Allow']}, not {request.method[:_QUOTED_CHARACTERS]}"
    elif detail == HTTPStatus.NOT_FOUND.phrase:
        detail = "there is nothing at this path; /openapi.json lists all paths, which have no slash at their end"
    return problem_response(_plain_problem(error.status_code, detail), error.status_code, headers)


def _allowed(request: Request) -> str:
    """The methods of all routes of the path (RFC 9110 section 10.2.1); the framework names those of the first alone."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    routes = (
        route for route in iter_route_contexts(request.app.routes) if compile_path(route.path or "")[0].match(path)
    )
    return ", ".join(sorted({method for route in routes for method in route.methods or ()}))


async def _on_client_gone(_request: Request, _error: Exception) -> JSONResponse:
    return error_response(errors.MalformedRequest("the request ended before its body was complete"))


async def _on_redis_error(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, _AWAY):
        log.error("Redis refused a command: %s", error)
        return unexpected_response()
    if isinstance(error, redis_errors.OutOfMemoryError):
        log.error("the job store is full: a request was refused")
        return error_response(
            gateway_errors.NotReady("the job store is full; delete finished jobs, or try again later")
        )
    log.log(log_level(error), "Redis cannot be reached: %s", type(error).__name__)
    return error_response(
        gateway_errors.NotReady("the store for jobs and networks is not available at the moment; try again")
    )


def _plain_problem(status: int, detail: str) -> Problem:
    phrase = HTTPStatus(status).phrase
    return Problem(type=TYPE_PREFIX + phrase.lower().replace(" ", "-"), title=phrase, detail=detail)


def _fault(entry: Mapping[str, Any]) -> dict[str, str]:
    """Where and what, without the offending value: it may be anything, and of any size."""
    return {"where": ".".join(str(part) for part in entry["loc"]), "what": str(entry["msg"])}
