"""URLs of Redis: of a server as redis-py knows them, or of a service whose primary Sentinels name.

``redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT,HOST:PORT/SERVICE[/DATABASE]`` lists the Sentinels; the name and
password are those of the Redis servers.
"""

from typing import Any, NamedTuple, Self
from urllib.parse import quote, unquote, urlsplit

# How the Sentinels themselves are asked.
SENTINEL_OPTIONS = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}

_SCHEME = "redis+sentinel"
_DEFAULT_PORT = 26379


class SentinelService(NamedTuple):
    """The primary's ``name`` among those that the Sentinels watch, and how to sign in to it."""

    sentinels: tuple[tuple[str, int], ...]
    name: str
    credentials: dict[str, Any]
    database: int

    @classmethod
    def named_in(cls, url: str) -> Self | None:
        """None: the URL is that of a server.

        Raises:
            ValueError: it names Sentinels, but not as it must.
        """
        parts = urlsplit(url)
        if parts.scheme != _SCHEME:
            return None
        signed_in, _, hosts = parts.netloc.rpartition("@")
        username, _, password = signed_in.partition(":")
        credentials = {"username": unquote(username), "password": unquote(password)}
        name, _, database = parts.path.strip("/").partition("/")
        sentinels = tuple(_address(host) for host in hosts.split(","))
        if not (all(host for host, _ in sentinels) and name and (database or "0").isdecimal()):
            raise ValueError(f"a URL of Sentinels must be like {_SCHEME}://HOST:PORT,HOST:PORT/SERVICE/DATABASE")
        return cls(sentinels, name, {key: value for key, value in credentials.items() if value}, int(database or 0))


def checked_url(url: str) -> str:
    """The same URL.

    Raises:
        ValueError: it names Sentinels, but not as it must.
    """
    SentinelService.named_in(url)
    return url


def as_celery_spells_it(url: str) -> tuple[str, dict[str, Any]]:
    """The broker's URL and the transport's options."""
    service = SentinelService.named_in(url)
    if service is None:
        return url.replace("unix://", "redis+socket://", 1), {}
    username, password = (quote(service.credentials.get(key, ""), safe="") for key in ("username", "password"))
    signed_in = f"{username}:{password}@" if password else ""
    urls = (f"sentinel://{signed_in}{host}:{port}/{service.database}" for host, port in service.sentinels)
    return ";".join(urls), {"master_name": service.name, "sentinel_kwargs": SENTINEL_OPTIONS}


def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    return parts.hostname or "", parts.port or _DEFAULT_PORT
