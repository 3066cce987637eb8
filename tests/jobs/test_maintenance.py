"""What maintenance removes when nobody asks: what has expired, and what killed processes left behind."""

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis

from tests.fixtures.settings import FactorySettings
from unet_factory.domain.errors import JobExpired
from unet_factory.domain.jobs import (
    SEGMENT_QUEUE,
    Delivery,
    DeliveryKind,
    Job,
    JobState,
    PolicyReport,
    SegmentationRequest,
    new_job_id,
)
from unet_factory.domain.spacing import OutsidePolicy
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.maintenance import ORPHAN_AGE_S, Maintenance
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore
from unet_factory_cli.embedded import EmbeddedServer

OLD_S = ORPHAN_AGE_S + 60


@pytest.fixture
def blobs(settings: FactorySettings) -> BlobStore:
    return BlobStore(settings.blob_url)


@pytest.fixture
def sent() -> list[str]:
    return []


@pytest.fixture
def maintenance(redis: Redis, blobs: BlobStore, sent: list[str], settings: FactorySettings) -> Maintenance:
    return Maintenance(redis, blobs, sent.append, settings)


def test_what_has_expired_goes_with_its_files_in_whatever_state_it_is(
    maintenance: Maintenance, redis: Redis, blobs: BlobStore, tmp_path: Path, lifecycle: JobLifecycle
) -> None:
    jobs = JobStore(redis)
    running, lasting = record(jobs, blobs, tmp_path, lasts_s=-1), record(jobs, blobs, tmp_path, lasts_s=600)
    assert lifecycle.claim(running, "owner", 60)
    maintenance.purge_expired()
    with pytest.raises(JobExpired):
        jobs.get(running)
    assert not lifecycle.update(running, "owner", progress=0.5)
    assert jobs.get(lasting).state is JobState.QUEUED
    assert [job_id for job_id, _ in blobs.job_ids()] == [lasting]
    assert jobs.count_active() == 1


def test_files_without_a_record_go_once_they_are_old(
    maintenance: Maintenance, redis: Redis, blobs: BlobStore, tmp_path: Path
) -> None:
    """An upload breaks off with its gateway; a result is put down after its job was purged."""
    known = record(JobStore(redis), blobs, tmp_path, lasts_s=600)
    old, fresh = new_job_id(), new_job_id()
    for job_id in (old, fresh):
        blobs.put(job_id, "input.nii", written(tmp_path / "scan"))
    scratch = tmp_path / "blobs" / "scratch"
    for name in ("broken-off", "still-written"):
        written(scratch / name / "upload")
    for path in (*(tmp_path / "blobs" / "jobs" / job_id for job_id in (known, old)), *scratch.glob("*")):
        age(path)
    age(scratch / "broken-off" / "upload")
    maintenance.purge_orphans()
    maintenance.purge_scratch()
    assert {job_id for job_id, _ in blobs.job_ids()} == {known, fresh}
    assert [path.name for path in scratch.iterdir()] == ["still-written"]


def test_a_wrong_clock_makes_no_upload_old(
    maintenance: Maintenance, blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a worker's process: gateways put an upload down before they record its job."""
    fresh = new_job_id()
    blobs.put(fresh, "input.nii", written(tmp_path / "scan"))
    written(tmp_path / "blobs" / "scratch" / "still-written" / "upload")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * OLD_S)
    maintenance.purge_orphans()
    maintenance.purge_scratch()
    assert [job_id for job_id, _ in blobs.job_ids()] == [fresh]
    assert (tmp_path / "blobs" / "scratch" / "still-written" / "upload").exists()


def test_a_lost_worker_costs_attempts_and_the_third_ends_the_job(
    maintenance: Maintenance,
    redis: Redis,
    blobs: BlobStore,
    sent: list[str],
    settings: FactorySettings,
    tmp_path: Path,
    lifecycle: JobLifecycle,
) -> None:
    jobs = JobStore(redis)
    job_id = record(jobs, blobs, tmp_path, lasts_s=600)
    for attempt in range(1, settings.job_attempts + 1):
        assert lifecycle.claim(job_id, f"owner {attempt}", 60)
        redis.zadd("jobs:active", {job_id: time.time() - 2 * settings.lease_s})
        maintenance.reap()
        assert jobs.get(job_id).state is JobState.RUNNING, "its lease still holds"
        redis.delete(f"job:{job_id}:lease")  # as its time to live does
        maintenance.reap()
    job = jobs.get(job_id)
    assert (job.state, job.attempts) == (JobState.FAILED, settings.job_attempts)
    assert job.error is not None
    assert job.error.type.endswith(":worker-lost")
    assert sent == [job_id] * (settings.job_attempts - 1)


def test_a_thousand_waiting_jobs_cost_one_short_look(
    maintenance: Maintenance, redis: Redis, blobs: BlobStore, sent: list[str], tmp_path: Path
) -> None:
    jobs = JobStore(redis)
    ids = [record(jobs, blobs, tmp_path, lasts_s=600) for _ in range(1000)]
    redis.zadd("jobs:active", dict.fromkeys(ids, time.time()))  # however long it took to record them
    took_s = []
    for _ in range(5):
        started = time.perf_counter()
        maintenance.reap()
        took_s.append(time.perf_counter() - started)
    assert sent == [], "they were recorded just now"
    assert min(took_s) < 0.1, "one script for all of them, not a round trip for each"
    redis.zadd("jobs:active", dict.fromkeys(ids, time.time() - 60))
    maintenance.reap()
    assert sorted(sent) == sorted(ids)
    maintenance.reap()
    assert len(sent) == len(ids), "each counts as sent now"


def test_only_as_many_jobs_are_sent_again_as_messages_are_missing(
    maintenance: Maintenance, redis: Redis, blobs: BlobStore, sent: list[str], tmp_path: Path
) -> None:
    """Those first that were sent longest ago; as long as one is missing, the others follow one by one."""
    ids = [record(JobStore(redis), blobs, tmp_path, lasts_s=600) for _ in range(5)]
    redis.zadd("jobs:active", {job_id: time.time() - 100 + place for place, job_id in enumerate(ids)})
    redis.lpush(SEGMENT_QUEUE, *range(3))
    maintenance.reap()
    assert sent == ids[:2]
    maintenance.reap()
    assert sent == ids[:4]
    redis.lpush(SEGMENT_QUEUE, *range(2))
    maintenance.reap()
    assert sent == ids[:4]


def test_many_that_expired_go_together_but_for_one_whose_webhook_is_still_to_be_told(
    maintenance: Maintenance, redis: Redis, blobs: BlobStore, tmp_path: Path, lifecycle: JobLifecycle
) -> None:
    jobs = JobStore(redis)
    ids = [record(jobs, blobs, tmp_path, lasts_s=-1) for _ in range(230)]
    told = record(jobs, blobs, tmp_path, lasts_s=-1, deliveries=(Delivery(kind=DeliveryKind.WEBHOOK, destination=""),))
    assert lifecycle.cancel(ids[0])
    maintenance.purge_expired()
    assert [job_id for job_id, _ in blobs.job_ids()] == [told]
    assert jobs.get_all([*ids, told]) == [jobs.get(told)]
    assert jobs.get(told).state is JobState.CANCELLED
    assert jobs.expired_ids() == []


@pytest.mark.parametrize("clock_off_s", [-3600.0, 3600.0])
def test_a_clock_that_is_wrong_in_one_process_delays_nothing(
    redis: Redis,
    blobs: BlobStore,
    sent: list[str],
    settings: FactorySettings,
    tmp_path: Path,
    lifecycle: JobLifecycle,
    monkeypatch: pytest.MonkeyPatch,
    clock_off_s: float,
) -> None:
    """A worker claims by its wrong clock and is killed; a message is lost; an upload waits to be purged."""
    jobs, right = JobStore(redis), time.time
    monkeypatch.setattr(time, "time", lambda: right() + clock_off_s)
    killed, unsent, done = (record(jobs, blobs, tmp_path, lasts_s=86400) for _ in range(3))
    assert lifecycle.claim(killed, "killed worker", 60)
    assert lifecycle.claim(done, "worker", 60)
    assert lifecycle.finish(done, "worker", JobState.SUCCEEDED)
    monkeypatch.undo()
    redis.delete(f"job:{killed}:lease")  # as its time to live does
    quick = settings.model_copy(update={"lease_s": 0.2, "upload_retention_s": 0.2})
    maintenance = Maintenance(redis, blobs, sent.append, quick)
    time.sleep(0.3)
    maintenance.reap()
    maintenance.purge_uploads()
    assert sorted(sent) == sorted([killed, unsent])
    assert blobs.names(done) == []


@pytest.mark.parametrize(("keeps_s", "goes"), [(0.0, True), (600.0, False), (None, False)])
def test_an_upload_goes_so_long_after_its_jobs_end_and_the_result_stays(
    redis: Redis,
    blobs: BlobStore,
    settings: FactorySettings,
    tmp_path: Path,
    keeps_s: float | None,
    goes: bool,
    lifecycle: JobLifecycle,
) -> None:
    jobs = JobStore(redis)
    maintenance = Maintenance(redis, blobs, print, settings.model_copy(update={"upload_retention_s": keeps_s}))
    ended, running = record(jobs, blobs, tmp_path, lasts_s=600), record(jobs, blobs, tmp_path, lasts_s=600)
    for job_id in (ended, running):
        assert lifecycle.claim(job_id, "worker", 60)
    blobs.put(ended, "labelmap.nii.gz", written(tmp_path / "result"))
    redis.hset(f"job:{ended}", "state", '"succeeded"')  # its worker was killed before it could say so anywhere else
    maintenance.reap()
    maintenance.purge_uploads()
    assert blobs.names(ended) == (["labelmap.nii.gz"] if goes else ["input.nii", "labelmap.nii.gz"])
    assert blobs.names(running) == ["input.nii"]
    assert jobs.get(ended).state is JobState.SUCCEEDED


def test_the_server_drops_the_past_after_a_purge_and_not_before(
    maintenance: Maintenance,
    lifecycle: JobLifecycle,
    redis: Redis,
    redis_server: EmbeddedServer,
    blobs: BlobStore,
    tmp_path: Path,
) -> None:
    jobs, history = JobStore(redis), redis_server.folder / "appendonlydir"

    def on_disk(job_id: str) -> bool:
        found = []
        for file in history.iterdir():
            with suppress(FileNotFoundError):  # replaced in this moment
                found.append(f"job:{job_id}\r\n".encode() in file.read_bytes())
        return any(found)

    job_id = record(jobs, blobs, tmp_path, lasts_s=600)
    maintenance.forget_the_past()
    assert on_disk(job_id)
    lifecycle.purge(job_id)
    maintenance.forget_the_past()
    deadline = time.monotonic() + 10
    while on_disk(job_id):
        assert time.monotonic() < deadline, "the record still stands in the server's files"
        time.sleep(0.05)


def record(
    jobs: JobStore, blobs: BlobStore, folder: Path, lasts_s: float, deliveries: tuple[Delivery, ...] = ()
) -> str:
    """A queued job with its upload."""
    job_id, now = new_job_id(), time.time()
    blobs.put(job_id, "input.nii", written(folder / "scan"))
    request = SegmentationRequest(model="tiny", checkpoint_digest="0" * 64, input_name="input.nii")
    policy = PolicyReport(outside=OutsidePolicy.CLAMP)
    job = Job(id=job_id, model="tiny", policy=policy, created=now, expires=now + lasts_s, deliveries=deliveries)
    jobs.create(job, request)
    return job_id


def written(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"voxels")
    return path


def age(path: Path) -> None:
    os.utime(path, (time.time() - OLD_S,) * 2)
