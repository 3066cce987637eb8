"""What both clients' connections to the gateway have in common."""

from typing import TypedDict

import httpx

from unet_factory.domain.loopback import is_loopback

DEFAULT_URL = "http://127.0.0.1:8000"

_TIMEOUT = httpx.Timeout(60.0, connect=5.0)


class Connection(TypedDict):
    """Arguments of ``httpx.Client`` and ``httpx.AsyncClient``."""

    base_url: httpx.URL
    headers: dict[str, str]
    timeout: httpx.Timeout
    trust_env: bool


def connection(base_url: str, api_key: str | None) -> Connection:
    """To the gateway at ``base_url``; the environment's proxies do not apply to one on this machine."""
    url = httpx.URL(base_url.rstrip("/"))
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    return Connection(base_url=url, headers=headers, timeout=_TIMEOUT, trust_env=not is_loopback(url.host))
