"""What maintenance costs, and whether it grows with what is stored."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis

from benchmarks.rows import Row, area, at_most
from benchmarks.timing import interleaved, timed_row
from unet_factory.domain.jobs import SEGMENT_QUEUE, Job, PolicyReport, SegmentationRequest, new_job_id
from unet_factory.domain.spacing import OutsidePolicy
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.maintenance import Maintenance
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.settings import Settings
from unet_factory_cli.embedded import JOBS_OPTIONS, EmbeddedServer

_QUEUED, _PURGED, _STORED = 1000, 2000, 10_000
_YEAR_S = 365 * 86400.0


@area("upkeep", "Keeping many jobs")
def upkeep() -> Iterator[Row]:
    with _store() as store:
        yield store.reaping()
    with _store() as store:
        yield store.purging()
    with _store() as small, _store() as large:
        small.record(10, ended=True)
        large.record(_STORED, ended=True)
        samples = interleaved({"10": small.round_of_work, "many": large.round_of_work}, rounds=9)
        name = f"a new job and a round of maintenance beside {_STORED} stored ones"
        yield timed_row(name, samples, "many", "10", aim=at_most(1.2))


class _Store:
    """An empty job store on a server of its own."""

    def __init__(self, folder: Path, redis: Redis) -> None:
        self._scan, self._redis = folder / "scan", redis
        self._blobs = BlobStore((folder / "blobs").as_uri())
        self._jobs, self._lifecycle = JobStore(redis), JobLifecycle(redis, self._blobs)
        self._sent: list[str] = []
        self._maintenance = Maintenance(redis, self._blobs, self._sent.append, Settings())

    def record(self, count: int, *, ended: bool = False, lasts_s: float = _YEAR_S) -> None:
        with self._without_waiting_for_the_disk():
            for _ in range(count):
                self._record_one(ended=ended, lasts_s=lasts_s)

    def _record_one(self, *, ended: bool = False, lasts_s: float = _YEAR_S) -> str:
        job_id, now = new_job_id(), time.time()
        policy = PolicyReport(outside=OutsidePolicy.CLAMP)
        request = SegmentationRequest(model="any", checkpoint_digest="0" * 64, input_name="input.nii")
        self._jobs.create(Job(id=job_id, model="any", policy=policy, created=now, expires=now + lasts_s), request)
        if ended:
            self._lifecycle.cancel(job_id)
            self._jobs.upload_gone(job_id)
        return job_id

    def reaping(self) -> Row:
        """One look at jobs that wait, one of their messages being on its way to a worker."""
        self.record(_QUEUED)
        self._redis.lpush(SEGMENT_QUEUE, *range(_QUEUED - 1))
        self._redis.zadd("jobs:active", {job_id: time.time() - 60 for job_id in self._jobs.active_ids()})
        before_s = time.process_time() + self._server_cpu_s()
        self._maintenance.reap()
        took_s = time.process_time() + self._server_cpu_s() - before_s
        name = f"looking at {_QUEUED} queued jobs (messages sent again: {len(self._sent)})"
        return Row(name=name, value=took_s * 1000, unit="ms of CPU", aim=at_most(10), before="140 ms")

    def purging(self) -> Row:
        with self._without_waiting_for_the_disk():
            for _ in range(_PURGED):
                job_id = self._record_one(ended=True, lasts_s=-1)
                self._scan.write_bytes(b"voxels")
                self._blobs.put(job_id, "input.nii", self._scan)
        started = time.perf_counter()
        self._maintenance.purge_expired()
        took_s = time.perf_counter() - started
        assert not self._jobs.expired_ids()
        return Row(name=f"purging {_PURGED} jobs", value=took_s, unit="s", aim=at_most(2), before="12 s")

    def round_of_work(self) -> None:
        job_id = self._record_one()
        self._maintenance.reap()
        self._maintenance.purge_expired()
        self._lifecycle.cancel(job_id)
        self._lifecycle.purge(job_id)

    @contextmanager
    def _without_waiting_for_the_disk(self) -> Iterator[None]:
        """While jobs are recorded that nobody measures."""
        self._redis.config_set("appendfsync", "no")
        yield
        self._redis.config_set("appendfsync", "always")

    def _server_cpu_s(self) -> float:
        used: dict[str, float] = self._redis.info("cpu")
        return used["used_cpu_user"] + used["used_cpu_sys"]


@contextmanager
def _store() -> Iterator[_Store]:
    with tempfile.TemporaryDirectory() as name:
        server = EmbeddedServer.start(Path(name) / "redis", JOBS_OPTIONS)
        try:
            with Redis.from_url(server.redis_url) as redis:
                yield _Store(Path(name), redis)
        finally:
            server.stop()
