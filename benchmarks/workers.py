"""Many scans at once on two cores: two workers with one thread each, against one worker with one thread or with two."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from redis import Redis

from benchmarks.children import contestant
from benchmarks.models import HIPPOCAMPUS, SHIPPED
from benchmarks.rows import Row, area, at_least
from benchmarks.scale.costs import cpu_seconds
from benchmarks.start import store
from benchmarks.timing import quartiles, rates_row, ratio_of
from tests.fixtures.settings import FactorySettings
from tests.system.gateway_process import gateway_process
from tests.system.processes import until
from tests.system.serve_process import ServeProcess, children, command_line
from tests.system.worker_process import WorkerProcess
from unet_factory.domain.spacing import OutsidePolicy, plan_spacing
from unet_factory.jobs.keys import ACTIVE
from unet_factory.jobs.presence import present
from unet_factory.model.checkpoint import load_checkpoint
from unet_factory.model.inference import Execution, segment_scan
from unet_factory.model.precision import pick_precision
from unet_factory.platform.process_memory import keep_freed_memory
from unet_factory.volume import read_volume
from unet_factory_client import FactoryClient, SegmentationParameters

_SCAN = Path("examples/hippocampus/images/hippocampus_004.nii.gz")
_WISHES = SegmentationParameters(model=HIPPOCAMPUS.stem)
_ROUNDS, _AT_ONCE = 7, 24
_QUEUES, _QUEUED, _SETTLED = 3, 300, 20
_FORWARDS = 40
_WITHIN_S = 300.0
_LOOK_EVERY_S = 0.05

_TWO, _ONE, _ONE_WITH_TWO = "two workers, one thread each", "one worker, one thread", "one worker, two threads"
_FACTORIES = {_TWO: (2, 1), _ONE: (1, 1), _ONE_WITH_TWO: (1, 2)}
"""How many workers, and how many threads each."""

_BARE_TWO, _BARE = "two processes", "one process"
_SCANS = "hippocampus at 1 mm"
_PARTS = {"workers": "unet_factory_worker", "gateway": "unet_factory_service", "Redis": "valkey"}


@area("workers", "Many scans on two workers")
def workers() -> Iterator[Row]:
    row = partial(rates_row, unit="jobs/s")
    drained = _drained()
    rates = {name: [queue.jobs_per_s for queue in queues] for name, queues in drained.items()}
    yield row(f"{_QUEUED} queued jobs, {_TWO}, {_SCANS}", rates, _TWO, _ONE, aim=at_least(1.8))
    yield _cpu_row(drained)
    yield row(
        f"the same scans without a factory, {_BARE_TWO} with one thread each, {_SCANS}", _bare(), _BARE_TWO, _BARE
    )
    uploaded, name = _uploaded(), f"uploaded meanwhile, {_TWO}, {_SCANS}"
    yield row(name, uploaded, _TWO, _ONE, before="1.25 on two busy cores")
    yield row(name, uploaded, _TWO, _ONE_WITH_TWO)


class _Queue(NamedTuple):
    """How fast it was emptied, and the CPU time in ms that a job took of each part of the factory."""

    jobs_per_s: float
    cpu_ms: Mapping[str, float]


def _drained() -> dict[str, list[_Queue]]:
    """Jobs that all wait before the first worker starts, and that nobody asks for."""
    drained: dict[str, list[_Queue]] = {_TWO: [], _ONE: []}
    with store() as stored, tempfile.TemporaryDirectory() as shared:
        more = {"calibrate": False, "shared_weights_dir": shared, "precision": "auto"}
        settings = FactorySettings.model_validate(stored.model_dump(exclude_unset=True) | more)
        with (
            gateway_process(settings, Path(os.devnull)) as (host, port),
            FactoryClient(f"http://{host}:{port}") as client,
        ):
            for _ in range(_QUEUES):
                for name, queues in drained.items():
                    for _ in range(_QUEUED):
                        client.submit(_SCAN, _WISHES)
                    queues.append(_emptied(settings, *_FACTORIES[name]))
    return drained


def _emptied(settings: FactorySettings, workers: int, threads: int) -> _Queue:
    """Timed from when all workers are at work until there is no longer a job for each."""
    settings = settings.model_copy(update={"threads": threads})
    started = [WorkerProcess(settings) for _ in range(workers)]
    with Redis.from_url(settings.redis_url) as redis:
        try:
            until(lambda: len(present(redis)) == workers, _WITHIN_S)
            begin = _when_left(redis, int(redis.zcard(ACTIVE)) - _SETTLED)
            end = _when_left(redis, workers)
            _when_left(redis, 0)
        finally:
            for worker in started:
                worker.kill_group()
    done = begin.left - end.left
    cpu_ms = {part: 1000 * (end.cpu_s[part] - spent_s) / done for part, spent_s in begin.cpu_s.items()}
    return _Queue(done / (end.at_s - begin.at_s), cpu_ms)


class _Moment(NamedTuple):
    left: int
    at_s: float
    cpu_s: Mapping[str, float]


def _when_left(redis: Redis, jobs: int) -> _Moment:
    """As soon as no more than so many are left."""
    deadline = time.monotonic() + _WITHIN_S
    while (left := int(redis.zcard(ACTIVE))) > jobs:
        assert time.monotonic() < deadline, f"{left} jobs are left"
        time.sleep(_LOOK_EVERY_S)
    return _Moment(left, time.monotonic(), _cpu_s())


def _cpu_s() -> dict[str, float]:
    """Of each part until now, with what it started."""
    spent = dict.fromkeys(_PARTS, 0.0)
    for pid in children(os.getpid()):
        for part, word in _PARTS.items():
            if word in command_line(pid):
                spent[part] += sum(map(cpu_seconds, (pid, *children(pid))))
    return spent


def _cpu_row(drained: Mapping[str, list[_Queue]]) -> Row:
    """What a job costs in all processes together; it says what a second worker loses on a busy machine too."""
    spent = {name: tuple(sum(queue.cpu_ms.values()) for queue in queues) for name, queues in drained.items()}
    parts = "; ".join(f"{name}: {_parts(queues)}" for name, queues in drained.items())
    return Row(
        name=f"a queued job in all processes together, {_TWO}",
        value=statistics.median(spent[_TWO]),
        unit="ms of CPU",
        spread=quartiles(spent[_TWO]),
        against=_ONE,
        ratio=ratio_of(spent[_TWO], spent[_ONE]),
        note=parts,
    )


def _parts(queues: list[_Queue]) -> str:
    medians = {part: statistics.median(queue.cpu_ms[part] for queue in queues) for part in _PARTS}
    return ", ".join(f"{part} {cpu_ms:.1f} ms" for part, cpu_ms in medians.items())


def _bare() -> dict[str, list[float]]:
    """Scans a second in one process and in two at once, which get no more from the machine than this."""
    rates: dict[str, list[float]] = {_BARE_TWO: [], _BARE: []}
    with contestant(_segmenting) as one, contestant(_segmenting) as other, ThreadPoolExecutor() as threads:
        for number in range(_ROUNDS + 1):
            for name, running in ((_BARE_TWO, (one, other)), (_BARE, (one,))):
                taken_s = [seconds for seconds, _ in threads.map(lambda each: each.run(), running)]
                if number:
                    rates[name].append(sum(_FORWARDS / seconds for seconds in taken_s))
    return rates


def _segmenting() -> Callable[[], object]:
    """The scan as often as it takes to measure it, in a process of its own."""
    keep_freed_memory()
    torch.set_num_threads(1)
    checkpoint, scan = load_checkpoint(HIPPOCAMPUS), read_volume(_SCAN)
    manifest = checkpoint.manifest
    plan = plan_spacing(scan.spacing_ras_mm, manifest.grid, OutsidePolicy.REJECT)
    unet, voxels = checkpoint.hypernetwork.unet(plan.snapped), torch.from_numpy(scan.data)
    execution = Execution(
        torch.device("cpu"),
        manifest.window_at(plan.snapped),
        unet.divisors,
        pick_precision("auto", checkpoint, torch.device("cpu")),
        overlap=manifest.window_overlap,
    )
    return lambda: [segment_scan(unet, voxels, plan, execution) for _ in range(_FORWARDS)]


def _uploaded() -> dict[str, list[float]]:
    """Jobs a second while a client uploads them and asks for each, on the same cores."""
    rates: dict[str, list[float]] = {name: [] for name in _FACTORIES}
    with ExitStack() as stack:
        clients = {name: stack.enter_context(_factory(*given)) for name, given in _FACTORIES.items()}
        for number in range(_ROUNDS + 1):
            for name, client in clients.items():
                rate = _jobs_per_s(client)
                if number:  # the first one makes the network
                    rates[name].append(rate)
    return rates


@contextmanager
def _factory(workers: int, threads: int) -> Iterator[FactoryClient]:
    with tempfile.TemporaryDirectory() as name:
        settings = {"threads": threads, "device": "cpu", "calibrate": False}
        serve = ServeProcess(Path(name), SHIPPED, "--workers", str(workers), **settings)
        try:
            with serve.client as client:
                until(lambda: len(client.status().workers) == workers, _WITHIN_S)
                yield client
        finally:
            serve.stop()


def _jobs_per_s(client: FactoryClient) -> float:
    """From the first upload to the end of the last job, all of them waiting at once."""
    started = time.perf_counter()
    jobs = [client.submit(_SCAN, _WISHES) for _ in range(_AT_ONCE)]
    for job in jobs:
        client.wait(job.id)
    return _AT_ONCE / (time.perf_counter() - started)
