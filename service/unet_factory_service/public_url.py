"""Under which URL callers know the gateway: what a reverse proxy in front of it says, or the operator's setting.

A proxy's headers count only where the connection comes from a trusted address: anybody can send them.
"""

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import unquote

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from unet_factory_service.settings import GatewaySettings

_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_SCHEMES = ("http", "https")
_ABSOLUTE = re.compile(rb"https?://([^/@]+)(/.*)?", re.IGNORECASE)


def public_base(request: Request) -> str:
    """``https://host/prefix`` without a slash at its end."""
    settings: GatewaySettings = request.app.state.gateway.settings
    if settings.public_url:
        return settings.public_url
    host = request.scope.get("forwarded_host") or request.url.netloc
    return f"{request.url.scheme}://{host}{request.scope.get('root_path', '')}"


def public_location(request: Request, path: str) -> str:
    """A ``Location`` for ``path``: the caller resolves it against the URL that it asked (RFC 9110 section 10.2.2)."""
    settings: GatewaySettings = request.app.state.gateway.settings
    return f"{settings.public_url or request.scope.get('root_path', '')}{path}"


class OriginForm:
    """Takes a target in absolute form (``GET http://host/path``), as clients send it to a proxy, for its path.

    Its authority then counts instead of the ``Host`` (RFC 9112 section 3.2.2).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (found := _ABSOLUTE.fullmatch(scope["raw_path"])):
            authority, path = found[1], found[2] or b"/"
            headers = [(b"host", authority), *(header for header in scope["headers"] if header[0] != b"host")]
            scope = {**scope, "headers": headers, "raw_path": path, "path": unquote(path.decode("ascii"))}
        await self._app(scope, receive, send)


class TrustedProxies:
    """Takes scheme, host, path prefix and client from ``Forwarded`` (RFC 7239) or ``X-Forwarded-*`` of a trusted proxy.

    Where several proxies stand in a row, each adds to the lists: the client is the last address that is not a trusted
    proxy's. A value that cannot be one is ignored.
    """

    def __init__(self, app: ASGIApp, trusted: str) -> None:
        self._app = app
        self._trusted = [ipaddress.ip_network(entry.strip()) for entry in trusted.split(",") if entry.strip()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("client") and self._trusts(scope["client"][0]):
            self._apply(scope)
        await self._app(scope, receive, send)

    def _apply(self, scope: Scope) -> None:
        said = _said(Headers(scope=scope))
        if said.get("proto") in _SCHEMES:
            scope["scheme"] = said["proto"]
        if _HOST.fullmatch(said.get("host", "")):
            scope["forwarded_host"] = said["host"]
        prefix = said.get("prefix", "").rstrip("/")
        if _PREFIX.fullmatch(prefix):
            scope["root_path"] = prefix
            if not scope["path"].startswith(f"{prefix}/"):  # else the proxy passes the whole path on
                scope["path"] = prefix + scope["path"]
        for address in reversed(said.get("for", "").split(",")):
            if found := _address(address):
                scope["client"] = (found, 0)
                if not self._trusts(found):
                    break

    def _trusts(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._trusted)


def _said(headers: Headers) -> Mapping[str, str]:
    """What the nearest proxy says of ``proto``, ``host`` and ``prefix``; ``for`` lists all addresses."""
    forwarded = [entry for value in headers.getlist("Forwarded") for entry in value.split(",")]
    if not forwarded:
        names = ("proto", "host", "prefix", "for")
        found = {name: ",".join(headers.getlist(f"X-Forwarded-{name}")).strip() for name in names}
        return {name: value if name == "for" else value.split(",")[-1].strip() for name, value in found.items()}
    entries = [parse_options_header(f"x; {entry}")[1] for entry in forwarded]
    nearest = {name.decode(): value.decode("latin-1") for name, value in entries[-1].items()}
    clients = [entry[b"for"].decode("latin-1") for entry in entries if b"for" in entry]
    return {"prefix": headers.get("X-Forwarded-Prefix", ""), **nearest, "for": ",".join(clients)}


def _address(text: str) -> str | None:
    """``192.0.2.1``, ``192.0.2.1:4711``, ``[2001:db8::1]:4711``: the address alone; None if it is not an address."""
    bare = re.sub(r"^\[(.*)\](:\d+)?$|^([^:]+):\d+$", r"\1\3", text.strip().strip('"'))
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return None
