"""Jobs with deliveries in a real store, and a courier's parts in the test's own process."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.fixtures.webhook_receiver import SECRET
from tests.system.processes import until
from unet_factory.destinations import Destinations
from unet_factory.domain.jobs import (
    Delivery,
    DeliveryState,
    Job,
    JobState,
    PolicyReport,
    SegmentationRequest,
    new_job_id,
)
from unet_factory.domain.spacing import OutsidePolicy
from unet_factory.jobs.deliveries import DeliveryStore
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore
from unet_factory_courier.attempts import Attempts, Dispatcher
from unet_factory_courier.tasks import DeliveryTasks

Submit = Callable[..., str]
Configure = Callable[[dict[str, object]], Destinations]
Run = Callable[[Destinations], Dispatcher]
Finish = Callable[..., None]


@pytest.fixture
def jobs(redis: Redis) -> JobStore:
    return JobStore(redis)


@pytest.fixture
def deliveries(redis: Redis) -> DeliveryStore:
    return DeliveryStore(redis)


@pytest.fixture
def settings(settings: FactorySettings) -> FactorySettings:
    """Failures are tried again within tenths of a second, and not for long."""
    quick = {"delivery_backoff_s": 0.2, "delivery_backoff_max_s": 0.4, "delivery_attempts": 6, "lease_s": 1.0}
    quick |= {"fetch_settle_s": 0.5}
    return settings.model_copy(update=quick)


@pytest.fixture
def blobs(settings: FactorySettings) -> BlobStore:
    return BlobStore(settings.blob_url)


@pytest.fixture
def submit(jobs: JobStore, lifecycle: JobLifecycle) -> Submit:
    """A job with deliveries that a worker called «owner» runs already, unless its scan is still to be fetched."""

    def submit(*deliveries: Delivery, fetch: Delivery | None = None, **wishes: object) -> str:
        job_id, now = new_job_id(), time.time()
        request = SegmentationRequest.model_validate(
            {"model": "tiny", "checkpoint_digest": "0" * 64, "input_name": "input.zip", **wishes}
        )
        policy = PolicyReport(outside=OutsidePolicy.CLAMP)
        job = Job(
            id=job_id, model="tiny", policy=policy, created=now, expires=now + 600, fetch=fetch, deliveries=deliveries
        )
        jobs.create(job, request)
        if fetch is None:
            assert lifecycle.claim(job_id, "owner", 60)
        return job_id

    return submit


@pytest.fixture
def finish(lifecycle: JobLifecycle) -> Finish:
    def finish(job_id: str, state: JobState = JobState.SUCCEEDED) -> None:
        assert lifecycle.finish(job_id, "owner", state)

    return finish


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Destinations as an operator's file says."""

    def configure(document: dict[str, object]) -> Destinations:
        monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
        file = tmp_path / "destinations.yml"
        file.write_text(yaml.safe_dump(document))
        return Destinations.load(file)

    return configure


@pytest.fixture
def published() -> list[str]:
    """Jobs that were sent to the workers."""
    return []


@pytest.fixture
def dispatcher(
    settings: FactorySettings,
    jobs: JobStore,
    lifecycle: JobLifecycle,
    blobs: BlobStore,
    deliveries: DeliveryStore,
    published: list[str],
) -> Iterator[Run]:
    made = []

    def make(destinations: Destinations) -> Dispatcher:
        attempts = Attempts(deliveries, DeliveryTasks(settings, destinations, jobs, lifecycle, blobs), published.append)
        made.append(Dispatcher(deliveries, attempts.run, settings.lease_s, settings.deliveries_per_destination))
        return made[-1]

    yield make
    for dispatcher in made:
        dispatcher.finish(10)


def webhooks(*allow: str) -> dict[str, object]:
    """To loopback by plain HTTP too: listed, as an operator would."""
    return {"webhooks": {"allow": list(allow), "schemes": ["http", "https"], "secrets": [{"env": "WEBHOOK_SECRET"}]}}


def worked_off(courier: Dispatcher, jobs: JobStore, job_id: str, finish_s: float = 10) -> tuple[Delivery, ...]:
    """The job's deliveries once neither of them nor its fetch is pending, and the courier's attempts have ended."""

    def look() -> tuple[tuple[Delivery, ...]] | None:
        courier.run_once()
        job = jobs.get(job_id)
        deliveries = (*job.deliveries, *([job.fetch] if job.fetch else []))
        pending = any(delivery.state is DeliveryState.PENDING for delivery in deliveries)
        return None if pending else (job.deliveries,)

    deliveries = until(look, 20)[0]
    assert courier.finish(finish_s) or not finish_s
    return deliveries
