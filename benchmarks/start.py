"""How long each role takes from its command to being ready."""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis

from benchmarks.models import SHIPPED
from benchmarks.rows import Row, area, at_most
from benchmarks.timing import quartiles
from tests.fixtures.settings import FactorySettings
from tests.system.gateway_process import gateway_process
from tests.system.processes import until
from tests.system.serve_process import ServeProcess
from tests.system.worker_process import WorkerProcess
from unet_factory.jobs.presence import present
from unet_factory_cli.embedded import JOBS_OPTIONS, EmbeddedServer

_STARTS = 3


@area("start", "Starting")
def start() -> Iterator[Row]:
    yield from _rows("unet-factory --help", _help, 0.3, ".16 to .26 s")
    yield from _rows("gateway", _gateway, 0.9, ".9 to 1.06 s")
    yield from _rows("worker with the shipped models", _worker, 2.5, "4.7 to 5.3 s")
    yield from _rows("unet-factory serve", _serve, 3.5, "5.8 s")


def _rows(name: str, run: Callable[[], float], aim_s: float, before: str) -> Iterator[Row]:
    run()
    before_s = _children_cpu_s()
    took_s = tuple(run() for _ in range(_STARTS))
    cpu_s = (_children_cpu_s() - before_s) / _STARTS
    yield Row(
        name=name,
        value=statistics.median(took_s),
        unit="s",
        spread=quartiles(took_s),
        aim=at_most(aim_s),
        before=before,
        note=f"{cpu_s:.2f} s of CPU time, its stop included",
    )


def _help() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "unet_factory_cli", "--help"], check=True, capture_output=True)
    return time.perf_counter() - started


def _gateway() -> float:
    with store() as settings:
        started = time.perf_counter()
        with gateway_process(settings, Path(os.devnull)):
            return time.perf_counter() - started


def _worker() -> float:
    with store() as settings, Redis.from_url(settings.redis_url) as redis:
        started = time.perf_counter()
        worker = WorkerProcess(settings)
        try:
            until(lambda: present(redis))
            return time.perf_counter() - started
        finally:
            worker.kill_group()


def _serve() -> float:
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        serve = ServeProcess(Path(name), SHIPPED)
        took_s = time.perf_counter() - started
        serve.stop()
        return took_s


@contextmanager
def store() -> Iterator[FactorySettings]:
    """Settings for one role on stores of its own, with the shipped models."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = EmbeddedServer.start(folder / "redis", JOBS_OPTIONS)
        try:
            yield FactorySettings(
                redis_url=server.redis_url, blob_url=(folder / "blobs").as_uri(), models_dir=SHIPPED, device="cpu"
            )
        finally:
            server.stop()


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
