"""Deliveries in a real Redis: due when their job ends, one courier at a time, back when it dies, gone with the job."""

import time

import pytest
from redis import Redis

from tests.fixtures.settings import FactorySettings
from unet_factory.domain.errors import DeliveryUnknown, JobExpired
from unet_factory.domain.jobs import (
    Delivery,
    DeliveryKind,
    DeliveryState,
    Job,
    JobState,
    PolicyReport,
    Problem,
    SegmentationRequest,
    new_job_id,
)
from unet_factory.domain.spacing import OutsidePolicy
from unet_factory.jobs.deliveries import ClaimedDelivery, DeliveryStore
from unet_factory.jobs.keys import delivery_queue
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.maintenance import Maintenance
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore

HOOK = Delivery(kind=DeliveryKind.WEBHOOK, destination="hooks.example.org")
PUSH = Delivery(kind=DeliveryKind.DICOMWEB, destination="archive")
FETCH = Delivery(kind=DeliveryKind.FETCH, destination="archive")
LEASE_S = 60.0
PROBLEM = Problem(type="urn:test", title="It failed", detail="it failed")


@pytest.fixture
def jobs(redis: Redis) -> JobStore:
    return JobStore(redis)


@pytest.fixture
def deliveries(redis: Redis) -> DeliveryStore:
    return DeliveryStore(redis)


def test_deliveries_are_due_when_the_job_ends_and_not_before(
    jobs: JobStore, lifecycle: JobLifecycle, deliveries: DeliveryStore
) -> None:
    job_id = record(jobs, HOOK, PUSH)
    assert lifecycle.claim(job_id, "owner", LEASE_S)
    lifecycle.update(job_id, "owner", progress=0.5)
    assert deliveries.queues() == []
    lifecycle.finish(job_id, "owner", JobState.SUCCEEDED)
    assert deliveries.queues() == sorted([delivery_queue(HOOK), delivery_queue(PUSH)])
    assert taken(deliveries, HOOK).id == f"{job_id}-0"
    assert taken(deliveries, PUSH).id == f"{job_id}-1"
    assert [delivery.state for delivery in jobs.get(job_id).deliveries] == [DeliveryState.PENDING] * 2


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.FAILED])
def test_a_job_ended_from_outside_has_its_deliveries_due_too(
    jobs: JobStore, lifecycle: JobLifecycle, deliveries: DeliveryStore, state: JobState
) -> None:
    job_id = record(jobs, HOOK)
    assert lifecycle.cancel(job_id) if state is JobState.CANCELLED else lifecycle.fail(job_id, PROBLEM)
    assert jobs.get(job_id).state is state
    assert taken(deliveries, HOOK).job_id == job_id


def test_a_fetch_is_due_at_once_and_keeps_the_reaper_from_sending_the_job(
    jobs: JobStore, deliveries: DeliveryStore, redis: Redis, settings: FactorySettings
) -> None:
    sent: list[str] = []
    maintenance = Maintenance(redis, BlobStore(settings.blob_url), sent.append, settings)
    job_id = record(jobs, fetch=FETCH)
    waited = {job_id: time.time() - 3600}
    redis.zadd("jobs:active", waited)
    maintenance.reap()
    assert sent == []
    assert deliveries.deliver(taken(deliveries, FETCH))
    redis.zadd("jobs:active", waited)
    maintenance.reap()
    assert sent == [job_id]


def test_one_courier_at_a_time_and_the_next_when_the_first_is_dead(
    jobs: JobStore, lifecycle: JobLifecycle, deliveries: DeliveryStore
) -> None:
    ended(jobs, lifecycle, HOOK)
    first = deliveries.claim(delivery_queue(HOOK), "first", 0.3)
    assert first is not None
    assert deliveries.claim(delivery_queue(HOOK), "second", LEASE_S) is None
    assert deliveries.renew(first, 0.3)
    time.sleep(0.35)
    second = deliveries.claim(delivery_queue(HOOK), "second", LEASE_S)
    assert second is not None
    assert (second.id, second.delivery.attempts, second.delivery.lost) == (first.id, 2, 1)
    assert not deliveries.renew(first, LEASE_S)
    assert not deliveries.deliver(first), "it is the second's now"
    assert deliveries.deliver(second)
    assert deliveries.claim(delivery_queue(HOOK), "third", LEASE_S) is None
    assert deliveries.queues() == []


def test_a_failed_attempt_waits_until_another_gets_through(
    jobs: JobStore, lifecycle: JobLifecycle, deliveries: DeliveryStore
) -> None:
    late, soon = ended(jobs, lifecycle, PUSH), ended(jobs, lifecycle, PUSH)
    assert deliveries.postpone(taken(deliveries, PUSH), "away", 3600)
    second = taken(deliveries, PUSH)
    assert second.job_id == soon
    (waiting,) = jobs.get(late).deliveries
    assert (waiting.state, waiting.last_error) == (DeliveryState.PENDING, "away")
    assert waiting.next_attempt == pytest.approx(time.time() + 3600, abs=5)
    assert deliveries.claim(delivery_queue(PUSH), "too early", LEASE_S) is None
    assert deliveries.deliver(second)
    again = taken(deliveries, PUSH)
    assert again.job_id == late, "the destination is back"
    assert (again.delivery.attempts, again.delivery.lost) == (2, 0)


def test_the_dead_are_listed_and_can_be_replayed(
    jobs: JobStore, lifecycle: JobLifecycle, deliveries: DeliveryStore
) -> None:
    job_id = ended(jobs, lifecycle, PUSH)
    assert deliveries.bury(taken(deliveries, PUSH), "refused")
    ((delivery_id, dead),) = deliveries.listed(DeliveryState.DEAD, 10)
    assert (delivery_id, dead.state, dead.last_error) == (f"{job_id}-0", DeliveryState.DEAD, "refused")
    assert deliveries.listed(DeliveryState.PENDING, 10) == []
    replayed = deliveries.replay(delivery_id)
    assert (replayed.state, replayed.attempts) == (DeliveryState.PENDING, 0)
    assert deliveries.listed(DeliveryState.DEAD, 10) == []
    assert [listed_id for listed_id, _ in deliveries.listed(DeliveryState.PENDING, 10)] == [delivery_id]
    again = taken(deliveries, PUSH)
    assert (again.id, again.delivery.attempts, again.delivery.lost) == (delivery_id, 1, 0)


def test_a_replay_disturbs_nobody_and_nothing_else(
    jobs: JobStore, lifecycle: JobLifecycle, deliveries: DeliveryStore
) -> None:
    running = record(jobs, HOOK)
    assert deliveries.replay(f"{running}-0").state is DeliveryState.PENDING
    assert deliveries.queues() == [], "its job has not ended"
    ended(jobs, lifecycle, PUSH)
    held = taken(deliveries, PUSH)
    deliveries.replay(held.id)
    assert deliveries.claim(delivery_queue(PUSH), "another", LEASE_S) is None
    for unknown in (f"{running}-7", f"{running}-fetch", f"{running}", "", "x" * 500):
        with pytest.raises(DeliveryUnknown):
            deliveries.replay(unknown)


@pytest.mark.parametrize("moment", ["due", "held", "dead"])
def test_a_purge_takes_its_deliveries_along(
    jobs: JobStore, lifecycle: JobLifecycle, deliveries: DeliveryStore, redis: Redis, moment: str
) -> None:
    job_id = ended(jobs, lifecycle, HOOK, PUSH)
    if moment != "due":
        held = taken(deliveries, PUSH)
        if moment == "dead":
            deliveries.bury(held, "refused")
    lifecycle.purge(job_id)
    if moment == "held":
        assert not deliveries.deliver(held)
    assert [key for key in redis.keys("*") if job_id.encode() in key] == [f"job:{job_id}:gone".encode()]
    for queue in deliveries.queues():
        assert deliveries.claim(queue, "another", LEASE_S) is None
    assert deliveries.listed(DeliveryState.DEAD, 10) == []
    assert sum(deliveries.pending().values()) == 0


def test_files_outlast_their_time_only_while_a_delivery_may_still_succeed(
    jobs: JobStore, lifecycle: JobLifecycle, deliveries: DeliveryStore, redis: Redis, settings: FactorySettings
) -> None:
    maintenance = Maintenance(redis, BlobStore(settings.blob_url), lambda _: None, settings)
    young, old = ended(jobs, lifecycle, PUSH), ended(jobs, lifecycle, PUSH)
    taken(deliveries, PUSH), taken(deliveries, PUSH)
    given_up = PUSH.model_copy(update={"since": time.time() - settings.delivery_max_age_s - 1})
    redis.hset(f"job:{old}", "errand.0", given_up.model_dump_json())
    redis.zadd("jobs:expiry", {young: 1, old: 1})
    maintenance.purge_expired()
    assert jobs.get(young).state is JobState.SUCCEEDED
    assert jobs.expired_ids() == [], "it is not looked at again at once"
    with pytest.raises(JobExpired):
        jobs.get(old)


def test_a_dead_letter_lasts_long_enough_to_be_replayed(jobs: JobStore, lifecycle: JobLifecycle) -> None:
    job_id = ended(jobs, lifecycle, PUSH)
    planned = jobs.get(job_id).expires
    jobs.keep(job_id, 100)
    assert jobs.get(job_id).expires == planned
    jobs.keep(job_id, 1000)
    assert jobs.get(job_id).expires == pytest.approx(time.time() + 1000, abs=5)


def test_many_at_once_are_each_taken_once(jobs: JobStore, lifecycle: JobLifecycle, deliveries: DeliveryStore) -> None:
    expected = {ended(jobs, lifecycle, PUSH) for _ in range(40)}
    seen = [claimed.job_id for claimed in iter(lambda: deliveries.claim(delivery_queue(PUSH), "one", LEASE_S), None)]
    assert len(seen) == len(expected)
    assert set(seen) == expected


def record(jobs: JobStore, *deliveries: Delivery, fetch: Delivery | None = None) -> str:
    """A queued job."""
    job_id, now = new_job_id(), time.time()
    request = SegmentationRequest(model="tiny", checkpoint_digest="0" * 64, input_name="input.nii")
    policy = PolicyReport(outside=OutsidePolicy.CLAMP)
    job = Job(
        id=job_id, model="tiny", policy=policy, created=now, expires=now + 600, fetch=fetch, deliveries=deliveries
    )
    jobs.create(job, request)
    return job_id


def ended(jobs: JobStore, lifecycle: JobLifecycle, *deliveries: Delivery) -> str:
    job_id = record(jobs, *deliveries)
    assert lifecycle.claim(job_id, "owner", LEASE_S)
    assert lifecycle.finish(job_id, "owner", JobState.SUCCEEDED)
    return job_id


def taken(deliveries: DeliveryStore, delivery: Delivery) -> ClaimedDelivery:
    claimed = deliveries.claim(delivery_queue(delivery), "courier", LEASE_S)
    assert claimed is not None
    return claimed
