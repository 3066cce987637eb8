"""Around every request: HEAD as GET, an id, its duration as a metric, and a last net for unexpected errors."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unet_factory.domain.jobs import Origin
from unet_factory.platform.following import following
from unet_factory.platform.logs import safe_traceback
from unet_factory.platform.metrics import HTTP_REQUEST_SECONDS
from unet_factory.platform.tracing import describe_span
from unet_factory_service.problems import unexpected_response

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-ID"

_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PROBED = {"/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/metrics"}  # every few seconds: no traces
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class HeadAsGet:
    """HEAD is answered as GET without its content (RFC 9110 section 9.3.2): the server leaves the content out.

    ``request.state.without_content`` is true then, for routes that can save themselves the making of it. Not for
    streams of events, which have no end to wait for.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD" and not scope["path"].endswith("/events"):
            unranged = [(name, value) for name, value in scope["headers"] if name != b"range"]  # ranges are for GET
            state = {**scope.get("state", {}), "without_content": True}
            scope = {**scope, "method": "GET", "headers": unranged, "state": state}
        await self._app(scope, receive, send)


class RequestId:
    """Takes the caller's id if it is harmless, else makes one; answers it and keeps it in ``request.state``.

    All log lines of the request name it, and its trace, if traces are made, begins here or goes on.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        origin = Origin(request_id=request_id, traceparent=Headers(scope=scope).get("traceparent", ""))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        with following(origin, "" if scope["path"] in _PROBED else _method(scope), "server"):
            await self._app(scope, receive, send_with_id)


class RequestDuration:
    """Observes each answer by method, route template and status; paths and ids never become labels."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting_status)
        finally:
            method, route = _method(scope), _route(scope)
            HTTP_REQUEST_SECONDS.labels(method, route, str(status)).observe(time.perf_counter() - started)
            describe_span(f"{method} {route}", {"http.route": route, "http.response.status_code": status})


class UnexpectedErrors:
    """Logs what no handler knew, and answers it without a trace."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_noting_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_noting_start)
        except Exception as error:
            if scope["type"] != "http" or started:
                raise
            request_id = scope["state"]["request_id"]
            log.error("unexpected error in %s, request %s\n%s", _route(scope), request_id, safe_traceback(error))
            await unexpected_response()(scope, receive, send)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
    return given if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "OTHER"


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", "unmatched")
