"""A stream of events ends when its key does, wherever it is followed."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import connect_sse
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.service.keyed import Asker, KeyedGateway, keyed_gateway, small_scan
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.platform.api_keys import ApiKey, Scope

ENDS_WITHIN_S = 4.0


def _expire(keyed: KeyedGateway, redis: Redis, key_id: str) -> None:
    key = keyed.keys.get(key_id)
    redis.set(f"apikey:{key_id}", ApiKey.model_copy(key, update={"expires": time.time() - 1}).model_dump_json())


ENDINGS: dict[str, Callable[[KeyedGateway, Redis, str], Any]] = {
    "revoked": lambda keyed, _, key_id: keyed.keys.revoke(key_id),
    "rotated": lambda keyed, _, key_id: keyed.keys.rotate(key_id, overlap_s=0),
    "expired": _expire,
}


@pytest.fixture
def keyed(settings: FactorySettings, redis: Redis) -> Iterator[KeyedGateway]:
    with keyed_gateway(settings, redis) as gateway:
        yield gateway


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_stream_ends_with_its_key(
    keyed: KeyedGateway, redis: Redis, tmp_path: Path, lifecycle: JobLifecycle, ending: str
) -> None:
    owner = keyed.asker(Scope.SEGMENT)
    viewer = keyed.asker(Scope.READ, shares_jobs_of=owner.id)
    job_id = owner.submit(small_scan(tmp_path)).json()["id"]
    assert lifecycle.claim(job_id, "worker", 60)
    with httpx.Client(base_url=owner.url, timeout=10, trust_env=False) as http:
        with _following(http, viewer, job_id) as source:
            events = source.iter_sse()
            assert json.loads(next(events).data)["state"] == "running"
            lifecycle.update(job_id, "worker", progress=0.25)
            assert json.loads(next(events).data)["progress"] == 0.25
            ENDINGS[ending](keyed, redis, viewer.id)
            ended = time.monotonic()
            lifecycle.update(job_id, "worker", progress=0.5)
            assert list(events) == [], "nothing is told to a key that no longer holds"
            assert time.monotonic() - ended < ENDS_WITHIN_S
        with _following(http, owner, job_id) as source:
            assert json.loads(next(source.iter_sse()).data)["progress"] == 0.5


def test_a_silent_stream_ends_with_its_key_too(keyed: KeyedGateway, tmp_path: Path) -> None:
    owner = keyed.asker(Scope.SEGMENT)
    job_id = owner.submit(small_scan(tmp_path)).json()["id"]
    with (
        httpx.Client(base_url=owner.url, timeout=10, trust_env=False) as http,
        _following(http, owner, job_id) as source,
    ):
        events = source.iter_sse()
        next(events)
        keyed.keys.revoke(owner.id)
        ended = time.monotonic()
        assert list(events) == []
        assert time.monotonic() - ended < ENDS_WITHIN_S


def _following(http: httpx.Client, asker: Asker, job_id: str) -> Any:
    return connect_sse(http, "GET", f"/segmentations/{job_id}/events", headers={"X-API-Key": asker.token})
