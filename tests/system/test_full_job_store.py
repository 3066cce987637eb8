"""A job server without room, as real processes meet it: work goes on, deleting frees room, and a refusal says so."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from tests.service.keyed import Asker, small_scan
from tests.system.processes import until
from tests.system.serve_process import ServeProcess
from tests.system.test_hangs import LONG, noise
from unet_factory.domain.jobs import JobState
from unet_factory.platform.api_keys import KeyStore, Scope
from unet_factory_cli.embedded import EmbeddedServer
from unet_factory_cli.serve import jobs_folder

STAYS_FULL_S = 5.0

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[ServeProcess]:
    settings = {"authentication": "required", "threads": 1, "device": "cpu", "maintenance_interval_s": 0.5}
    serve = ServeProcess(tmp_path_factory.mktemp("serve"), tiny_models, **settings)
    try:
        yield serve
        assert serve.stop() == 0, serve.log
    finally:
        serve.kill()


@pytest.fixture
def store(factory: ServeProcess) -> Iterator[Redis]:
    with Redis.from_url(EmbeddedServer.url_in(jobs_folder(factory.data_dir))) as redis:
        yield redis
        redis.config_set("maxmemory", 0)


def test_a_full_job_store_stops_no_process_and_deleting_works(
    factory: ServeProcess, store: Redis, tmp_path: Path
) -> None:
    key, token = KeyStore(store).create("tests", (Scope.SEGMENT, Scope.READ), requests_per_minute=10_000)
    asker = Asker(key.id, token, factory.url)
    long, short = noise(tmp_path, LONG), small_scan(tmp_path)
    done = submitted(asker, short)
    until(lambda: state(asker, done) is JobState.SUCCEEDED)
    worker = factory.pid_of("unet_factory_cli", "worker")
    running, queued = submitted(asker, long), submitted(asker, short)
    until(lambda: state(asker, running) is JobState.RUNNING)

    store.config_set("maxmemory", 1)
    refused = asker.submit(short)
    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE, refused.text
    assert "the job store is full" in refused.json()["detail"]
    assert int(refused.headers["Retry-After"]) > 0
    assert asker.ask("DELETE", f"/segmentations/{done}").status_code == httpx.codes.NO_CONTENT
    assert asker.get(f"/segmentations/{done}").status_code == httpx.codes.GONE
    until(lambda: state(asker, running) is JobState.SUCCEEDED)
    time.sleep(STAYS_FULL_S)  # the worker has nothing to do, and asks for messages
    assert state(asker, queued) is not JobState.FAILED
    assert factory.pid_of("unet_factory_cli", "worker") == worker, factory.log

    store.config_set("maxmemory", 0)
    until(lambda: state(asker, queued) is JobState.SUCCEEDED)
    assert factory.pid_of("unet_factory_cli", "worker") == worker, factory.log


def submitted(asker: Asker, scan: Path) -> str:
    answer = asker.submit(scan)
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    return str(answer.json()["id"])


def state(asker: Asker, job_id: str) -> JobState:
    answer = asker.get(f"/segmentations/{job_id}")
    assert answer.status_code == httpx.codes.OK, answer.text
    return JobState(answer.json()["state"])
