"""A gateway that requires API keys, and keys for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import write_nifti
from tests.service.conftest import Gateway, running_gateway
from unet_factory.platform.api_keys import KeyStore, Scope


@dataclass(frozen=True)
class KeyedGateway:
    gateway: Gateway
    keys: KeyStore

    def asker(self, *scopes: Scope, **options: Any) -> "Asker":
        key, token = self.keys.create("tests", scopes, **options)
        return Asker(key.id, token, self.gateway.url)


@dataclass(frozen=True)
class Asker:
    """Somebody with a key."""

    id: str
    token: str
    url: str

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        return httpx.request(method, f"{self.url}{path}", headers=headers, timeout=20, trust_env=False, **options)

    def get(self, path: str) -> httpx.Response:
        return self.ask("GET", path)

    def submit(self, scan: Path, **headers: str) -> httpx.Response:
        with scan.open("rb") as file:
            return self.ask("POST", "/segmentations", files={"file": ("scan", file)}, headers=headers)


@contextmanager
def keyed_gateway(settings: FactorySettings, redis: Redis, **changes: Any) -> Iterator[KeyedGateway]:
    with running_gateway(settings.model_copy(update={"authentication": "required", **changes})) as gateway:
        yield KeyedGateway(gateway, KeyStore(redis))


def small_scan(folder: Path) -> Path:
    return write_nifti(folder / "scan.nii.gz")
