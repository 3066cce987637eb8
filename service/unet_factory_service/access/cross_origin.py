"""What browsers are told of answers: which pages of other origins may read them (CORS), and to be strict with the rest.

Pages send an API key in a header, never a cookie, so no answer depends on what a browser sends by itself.
"""

from collections.abc import Mapping

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unet_factory_service.middleware import REQUEST_ID_HEADER

_METHODS = ("GET", "HEAD", "POST", "DELETE")
_SENT = (
    *("Accept", "Authorization", "Content-Type", "X-API-Key", "Idempotency-Key", "Prefer", "Range", REQUEST_ID_HEADER),
    *("If-Match", "If-None-Match", "If-Modified-Since", "If-Range", "Last-Event-ID", "Cache-Control", "traceparent"),
)
_READ = (
    *("Accept-Ranges", "Content-Disposition", "Content-Length", "Content-Range", "ETag", "Link", "Location"),
    *("Preference-Applied", "Repr-Digest", "Retry-After", "Warning", "WWW-Authenticate", REQUEST_ID_HEADER),
    *("X-Requested-Spacing", "X-Snapped-Spacing", "X-Conditions", "X-Out-Of-Range", "X-Outside-Policy"),
    *("X-Checkpoint-Digest", "X-Member"),
)
_PREFLIGHT_LASTS_S = 600

# Pages and their workers have policies of their own.
_STRICT: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def allow_origins(app: FastAPI, origins: tuple[str, ...]) -> None:
    """Let pages of these origins ask and read the answers; ``*``: of any. Without one, nothing is added."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_SENT,
            expose_headers=_READ,
            allow_credentials=False,
            max_age=_PREFLIGHT_LASTS_S,
        )


class SecurityHeaders:
    """Adds to every answer what it does not say itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_strictly(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _STRICT.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_strictly)
