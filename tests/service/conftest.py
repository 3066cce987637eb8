"""The real gateway on a free port, and the real work of a worker in a thread of the test process."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.fixtures.settings import FactorySettings
from unet_factory.domain.jobs import GENERATE_TASK, SEGMENT_QUEUE, SEGMENT_TASK, WEIGHTS_QUEUE, GenerationRequest
from unet_factory.jobs.presence import WorkerPresence, announce
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory_cli.embedded import EmbeddedServer
from unet_factory_service.app import GatewayServer, create_app, with_access_decided

STARTS_WITHIN_S = 10.0
MAX_UPLOAD_BYTES = 2**21

RunGateway = Callable[[FactorySettings], AbstractContextManager["Gateway"]]
Snapshot = Callable[[], tuple[list[str], dict[str, bytes | None]]]


@dataclass(frozen=True)
class Gateway:
    """A gateway that listens; ``http`` is a client of it."""

    url: str
    http: httpx.Client
    server: GatewayServer
    thread: threading.Thread


@contextmanager
def running_gateway(settings: FactorySettings) -> Iterator[Gateway]:
    # asyncio turns Nagle's algorithm off only where the protocol is named
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        server = GatewayServer(create_app(with_access_decided(settings, "127.0.0.1")))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        url = "http://{}:{}".format(*listener.getsockname())
        try:
            with httpx.Client(base_url=url, timeout=20) as http:
                yield Gateway(url, http, server, thread)
        finally:  # a test that failed must not leave a server that keeps the whole run from ending
            server.should_exit = True
            thread.join(STARTS_WITHIN_S)
        assert not thread.is_alive()


@pytest.fixture
def run_gateway() -> RunGateway:
    """To run one with settings of its own."""
    return running_gateway


@pytest.fixture(scope="session")
def shared_settings(
    redis_server: EmbeddedServer, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> FactorySettings:
    return FactorySettings(
        redis_url=redis_server.redis_url,
        blob_url=tmp_path_factory.mktemp("blobs").as_uri(),
        models_dir=tiny_models,
        device="cpu",
        max_upload_bytes=MAX_UPLOAD_BYTES,
        max_decompressed_bytes=4 * MAX_UPLOAD_BYTES,
        lease_s=2.0,
        maintenance_interval_s=0.5,
    )


@pytest.fixture(scope="module")
def shared_gateway(shared_settings: FactorySettings) -> Iterator[Gateway]:
    with running_gateway(shared_settings) as gateway:
        yield gateway


@pytest.fixture
def settings(shared_settings: FactorySettings, redis: Redis) -> FactorySettings:
    """Of the gateway that the tests of a module share, with nothing in its stores."""
    for collection in ("jobs", "received"):
        blobs = BlobStore(shared_settings.blob_url, collection)
        for name, _ in list(blobs.job_ids()):
            blobs.delete(name)
    return shared_settings


@pytest.fixture
def gateway(shared_gateway: Gateway, settings: FactorySettings) -> Gateway:
    return shared_gateway


@pytest.fixture
def http(gateway: Gateway) -> httpx.Client:
    return gateway.http


@pytest.fixture
def digest(settings: FactorySettings) -> str:
    """Of the default model's checkpoint."""
    return ModelRegistry.scan(settings.models_dir).get().digest


@pytest.fixture
def worker_present(redis: Redis, digest: str) -> None:
    """A worker is announced, so work is ordered; nobody takes it."""
    announce(redis, "announced", WorkerPresence(device="cpu", models={"tiny": digest}, started=0, pid=1), ttl_s=600)


@pytest.fixture
def worker(settings: FactorySettings, worker_present: None) -> Iterator[None]:
    """A Celery worker that takes the gateway's messages and does what the worker package does with them."""
    from celery import Celery
    from celery.contrib.testing.worker import start_worker

    from unet_factory_worker.child import open_context
    from unet_factory_worker.segmentation_task import run_job

    context = open_context(settings)
    app = Celery("worker_of_the_tests", broker=settings.broker_url, set_as_current=False)
    app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=1, worker_hijack_root_logger=False)

    @app.task(name=SEGMENT_TASK, shared=False)
    def segment(job_id: str) -> None:
        run_job(job_id, context)

    @app.task(name=GENERATE_TASK, shared=False)
    def generate(request_json: str) -> None:
        context.factory.publish(GenerationRequest.model_validate_json(request_json))

    options: dict[str, Any] = {"queues": [WEIGHTS_QUEUE, SEGMENT_QUEUE], "pool": "solo", "perform_ping_check": False}
    root = logging.getLogger()
    level = root.level
    with start_worker(app, loglevel="ERROR", shutdown_timeout=10, **options):
        root.setLevel(level)  # Celery changed it, and later tests read the log
        yield


@pytest.fixture
def only_bells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiters look again only when they are rung, or after much longer than the test may take."""
    monkeypatch.setattr("unet_factory_service.wakeups.RECHECK_S", 600.0)


@pytest.fixture
def snapshot(settings: FactorySettings, redis: Redis) -> Snapshot:
    """All files of the blob store and all keys and values in Redis that belong to jobs."""
    root = Path(settings.blob_url.removeprefix("file://"))

    def take() -> tuple[list[str], dict[str, bytes | None]]:
        files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.parent != root)
        keys = sorted(key.decode() for key in redis.keys("*") if isinstance(key, bytes))
        return files, {
            key: redis.dump(key) for key in keys if not key.startswith(("maintenance", "worker", "received:purging"))
        }

    return take


def poll(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
