"""Many scans at once on two cores: two workers with one thread each, against one worker with one thread or with two."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.models import SHIPPED
from benchmarks.rows import Bound, Row, area, at_least
from benchmarks.timing import quartiles, ratio_of
from tests.system.processes import until
from tests.system.serve_process import ServeProcess
from unet_factory_client import FactoryClient, SegmentationParameters

_SCAN = Path("examples/hippocampus/images/hippocampus_004.nii.gz")
_ROUNDS, _AT_ONCE = 7, 24
_STARTS_WITHIN_S = 120.0

_TWO, _ONE, _ONE_WITH_TWO = "two workers, one thread each", "one worker, one thread", "one worker, two threads"
_FACTORIES = {_TWO: (2, 1), _ONE: (1, 1), _ONE_WITH_TWO: (1, 2)}
"""How many workers, and how many threads each."""


@area("workers", "Many scans on two workers")
def workers() -> Iterator[Row]:
    rates: dict[str, list[float]] = {name: [] for name in _FACTORIES}
    with ExitStack() as stack:
        clients = {name: stack.enter_context(_factory(*given)) for name, given in _FACTORIES.items()}
        for number in range(_ROUNDS + 1):
            for name, client in clients.items():
                rate = _jobs_per_s(client)
                if number:  # the first one makes the network
                    rates[name].append(rate)
    yield _row(rates, _ONE, at_least(1.8), "1.25 on two busy cores")
    yield _row(rates, _ONE_WITH_TWO)


def _row(rates: dict[str, list[float]], against: str, aim: Bound | None = None, before: str = "") -> Row:
    ours, theirs = tuple(rates[_TWO]), tuple(rates[against])
    return Row(
        name=f"{_TWO}, hippocampus at 1 mm",
        value=sorted(ours)[len(ours) // 2],
        unit="jobs/s",
        spread=quartiles(ours),
        against=against,
        ratio=ratio_of(ours, theirs),
        aim=aim,
        before=before,
    )


@contextmanager
def _factory(workers: int, threads: int) -> Iterator[FactoryClient]:
    with tempfile.TemporaryDirectory() as name:
        settings = {"threads": threads, "device": "cpu", "calibrate": False}
        serve = ServeProcess(Path(name), SHIPPED, "--workers", str(workers), **settings)
        try:
            with serve.client as client:
                until(lambda: len(client.status().workers) == workers, _STARTS_WITHIN_S)
                yield client
        finally:
            serve.stop()


def _jobs_per_s(client: FactoryClient) -> float:
    """From the first upload to the end of the last job, all of them waiting at once."""
    started = time.perf_counter()
    jobs = [client.submit(_SCAN, SegmentationParameters(model="hippocampus-mr")) for _ in range(_AT_ONCE)]
    for job in jobs:
        client.wait(job.id)
    return _AT_ONCE / (time.perf_counter() - started)
