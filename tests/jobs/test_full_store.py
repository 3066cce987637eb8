"""A job server at its memory limit refuses new jobs, and nothing that frees memory or finishes accepted work."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from unet_factory.domain.errors import JobExpired
from unet_factory.domain.jobs import (
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
from unet_factory.jobs.maintenance import Maintenance
from unet_factory.jobs.presence import WorkerPresence, announce, present
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.settings import Settings
from unet_factory_cli.embedded import JOBS_OPTIONS, EmbeddedServer

HOOK = Delivery(kind=DeliveryKind.WEBHOOK, destination="hooks.example.org")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer.start(tmp_path / "redis", JOBS_OPTIONS)
    yield server
    server.stop()


def test_a_full_store_purges_finishes_and_refuses_new_jobs(
    server: EmbeddedServer, settings: Settings, tmp_path: Path
) -> None:
    blobs = BlobStore((tmp_path / "files").as_uri())
    with Redis.from_url(server.redis_url) as redis:
        jobs, lifecycle = JobStore(redis), JobLifecycle(redis, blobs)
        deleted, expired, running, lost = (record(jobs, lasts_s) for lasts_s in (600, -1, 600, 600))
        assert lifecycle.claim(running, "worker", 60)
        assert lifecycle.claim(lost, "killed worker", 60)
        redis.delete(f"job:{lost}:lease")
        redis.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            record(jobs, 600)
        lifecycle.purge(deleted)
        assert lifecycle.update(running, "worker", progress=0.5)
        assert lifecycle.finish(running, "worker", JobState.SUCCEEDED)
        sent: list[str] = []
        Maintenance(redis, blobs, sent.append, settings).run_once()
        assert sent == [lost]
        for purged in (deleted, expired):
            assert jobs.owner(purged) == "me"
            for look in (jobs.get, jobs.request):
                with pytest.raises(JobExpired):
                    look(purged)
        assert jobs.get(running).state is JobState.SUCCEEDED
        presence = WorkerPresence(device="cpu", models={}, started=1.0, pid=1)
        announce(redis, "worker", presence)
        assert present(redis) == [presence]


def record(jobs: JobStore, lasts_s: float) -> str:
    now = time.time()
    job = Job(
        id=new_job_id(),
        model="tiny",
        policy=PolicyReport(outside=OutsidePolicy.CLAMP),
        created=now,
        expires=now + lasts_s,
        deliveries=() if lasts_s < 0 else (HOOK,),
    )
    request = SegmentationRequest(model="tiny", checkpoint_digest="0" * 64, input_name="input.nii")
    jobs.create(job, request, owner="me", idempotency_key=f"key of {job.id}")
    return job.id
