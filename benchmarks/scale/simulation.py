"""Jobs on their way through gateways, job store, store of uploads and workers: a network of queues, by SimPy.

Each part serves one job at a time for as long as a job costs it: a gateway (one process, one core), the job store (one
thread), the store of uploads (bytes over its bandwidth) and a worker. What the simulation leaves out: the network,
pauses of the disk, processes that die.
"""

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import simpy

from benchmarks.scale.costs import Cost
from unet_factory.domain.frozen import Frozen

_UPLOAD_SHARE = 0.5  # of what a job costs gateway and job store, before a worker has it; the rest comes after


@dataclass(frozen=True)
class Installation:
    """How many of each part, and bytes a second of the store of uploads.

    ``speedup`` is how many times as fast as the measured core a worker is.
    """

    workers: int
    gateways: int = 1
    blob_bytes_per_s: float = 500e6
    speedup: float = 1.0


class Outcome(Frozen):
    """Of the jobs that ended after the warm-up; ``use`` is the share of the time that each part was busy."""

    jobs: int
    jobs_per_s: float
    wait_mean_s: float
    wait_p50_s: float
    wait_p99_s: float
    total_p50_s: float
    total_p99_s: float
    use: dict[str, float]

    @property
    def busiest(self) -> str:
        return max(self.use, key=self.use.__getitem__)


class Station:
    """``places`` servers with one queue; ``use`` since the warm-up."""

    def __init__(self, environment: simpy.Environment, places: int, warm_up_s: float) -> None:
        self._environment, self._places, self._warm_up_s = environment, places, warm_up_s
        self._resource = simpy.Resource(environment, places)
        self._busy_s = 0.0

    def serve(self, seconds: float) -> Generator[Any, Any, float]:
        """Queue, then be served; returns the time spent in the queue."""
        if not seconds:
            return 0.0
        arrived = self._environment.now
        with self._resource.request() as place:
            yield place
            started = self._environment.now
            yield self._environment.timeout(seconds)
            self._busy_s += max(0.0, self._environment.now - max(started, self._warm_up_s))
        return float(started - arrived)

    def use(self) -> float:
        return self._busy_s / self._places / (self._environment.now - self._warm_up_s)


Stations = dict[str, Station]
Process = Generator[Any, Any, None]


class _Ended(NamedTuple):
    arrived_s: float
    wait_s: float
    total_s: float


@dataclass
class Simulation:
    """One run of ``warm_up_s`` and then of ``seconds``, which alone count.

    Jobs come at ``jobs_per_s`` whatever becomes of them, or from ``clients``, each of which sends its next job when it
    has the result of the last.
    """

    kinds: Sequence[Cost]
    installation: Installation
    seconds: float
    warm_up_s: float = 0.0
    jobs_per_s: float = 0.0
    clients: int = 0
    seed: int = 0
    _ended: list[_Ended] = field(default_factory=list)

    def run(self) -> Outcome:
        environment = simpy.Environment()
        installed = self.installation
        places = {
            "gateways": installed.gateways,
            "job store": 1,
            "uploads and results": 1,
            "workers": installed.workers,
        }
        stations = {name: Station(environment, count, self.warm_up_s) for name, count in places.items()}
        draw = random.Random(self.seed)
        if self.jobs_per_s:
            environment.process(self._arrivals(environment, stations, draw))
        for _ in range(self.clients):
            environment.process(self._client(environment, stations, draw))
        environment.run(until=self.warm_up_s + self.seconds)
        counted = [job for job in self._ended if job.arrived_s + job.total_s >= self.warm_up_s]
        waits, totals = [job.wait_s for job in counted], [job.total_s for job in counted]
        return Outcome(
            jobs=len(counted),
            jobs_per_s=len(counted) / self.seconds,
            wait_mean_s=float(np.mean(waits)),
            wait_p50_s=float(np.percentile(waits, 50)),
            wait_p99_s=float(np.percentile(waits, 99)),
            total_p50_s=float(np.percentile(totals, 50)),
            total_p99_s=float(np.percentile(totals, 99)),
            use={name: station.use() for name, station in stations.items()},
        )

    def _arrivals(self, environment: simpy.Environment, stations: Stations, draw: random.Random) -> Process:
        while True:
            yield environment.timeout(draw.expovariate(self.jobs_per_s))
            environment.process(self._job(environment, stations, self._kind(draw)))

    def _client(self, environment: simpy.Environment, stations: Stations, draw: random.Random) -> Process:
        while True:
            yield from self._job(environment, stations, self._kind(draw))

    def _kind(self, draw: random.Random) -> Cost:
        return draw.choices(self.kinds, [kind.share for kind in self.kinds])[0]

    def _job(self, environment: simpy.Environment, stations: Stations, kind: Cost) -> Process:
        arrived, bandwidth = environment.now, self.installation.blob_bytes_per_s
        gateways, store, blobs, workers = stations.values()
        yield from gateways.serve(kind.gateway_s * _UPLOAD_SHARE)
        yield from blobs.serve(2 * kind.upload_bytes / bandwidth)  # written by a gateway, read by a worker
        yield from store.serve(kind.store_s * _UPLOAD_SHARE)
        wait_s = yield from workers.serve(kind.worker_s / self.installation.speedup)
        yield from store.serve(kind.store_s * (1 - _UPLOAD_SHARE))
        yield from blobs.serve(2 * kind.result_bytes / bandwidth)
        yield from gateways.serve(kind.gateway_s * (1 - _UPLOAD_SHARE))
        self._ended.append(_Ended(arrived, wait_s, environment.now - arrived))
