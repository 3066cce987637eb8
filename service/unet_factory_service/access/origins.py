"""Which names the gateway answers to, and which pages' scripts may change something, while no API keys are required.

A page from elsewhere can make a browser ask a gateway on loopback: by a name of its own that it points to 127.0.0.1
(DNS rebinding), or by posting a form. The first is told by the Host, the second by the Origin that browsers send. Where
keys are required neither gets anywhere, as the page has no key.
"""

import ipaddress
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from unet_factory.domain.jobs import Problem
from unet_factory.domain.problems import TYPE_PREFIX
from unet_factory_service.problems import problem_response
from unet_factory_service.settings import GatewaySettings

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class HostsAndOrigins:
    """Refuses requests by a foreign name (421) and changes asked for by a foreign page (403)."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self._app = app
        self._is_on = settings.authentication == "off"
        self._public = urlsplit(settings.public_url).netloc.lower()
        self._pages = {origin.lower() for origin in settings.cors_origin_list}
        named = [name.strip().lower() for name in settings.allowed_hosts.split(",")]
        self._hosts = {name for name in (*named, urlsplit(settings.public_url).hostname or "") if name}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._is_on:
            headers = Headers(scope=scope)
            host, origin = headers.get("Host", "").lower(), headers.get("Origin")
            if host and not self._answers_to(_name(host)):
                await _refused(421, "the gateway does not answer requests for this Host", host)(scope, receive, send)
                return
            trusted = {host, self._public, scope.get("forwarded_host", "")}
            if origin and scope["method"] not in _SAFE_METHODS and not self._is_own(origin, trusted):
                await _refused(403, "pages from this Origin may not change anything here", origin)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _answers_to(self, name: str) -> bool:
        """Addresses and names without a dot (of this machine, of containers) cannot be somebody else's domain."""
        return name in self._hosts or "." not in name or name.endswith(".localhost") or _is_address(name)

    def _is_own(self, origin: str, trusted: set[str]) -> bool:
        if origin.lower() in self._pages:
            return True
        authority = origin.lower().partition("://")[2]
        return bool(authority) and (authority in trusted or _name(authority) in self._hosts)


def _name(authority: str) -> str:
    """Host without port and brackets; empty if it is not a valid host."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refused(status: int, what: str, value: str) -> ASGIApp:
    setting = "UNET_FACTORY_ALLOWED_HOSTS" if status == 421 else "UNET_FACTORY_CORS_ORIGINS"
    detail = f"{what} ({value[:100]!r}); add it to {setting}, or require API keys"
    phrase = HTTPStatus(status).phrase
    return problem_response(
        Problem(type=TYPE_PREFIX + phrase.lower().replace(" ", "-"), title=phrase, detail=detail), status
    )
