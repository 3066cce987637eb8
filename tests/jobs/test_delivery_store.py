"""Errands in a real Redis: due when their job ends, one courier at a time, back when it dies, gone with their job."""

import time

import pytest
from redis import Redis

from unet_factory.domain.errors import DeliveryUnknown, JobExpired
from unet_factory.domain.jobs import (
    Errand,
    ErrandKind,
    ErrandState,
    Job,
    JobState,
    PolicyReport,
    SegmentationRequest,
    new_job_id,
)
from unet_factory.domain.spacing import OutsidePolicy
from unet_factory.jobs.deliveries import Claimed, Outbox, queue_of
from unet_factory.jobs.maintenance import Maintenance
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.settings import Settings

HOOK = Errand(kind=ErrandKind.WEBHOOK, destination="hooks.example.org")
PUSH = Errand(kind=ErrandKind.DICOMWEB, destination="archive")
FETCH = Errand(kind=ErrandKind.FETCH, destination="archive")
LEASE_S = 60.0


@pytest.fixture
def jobs(redis: Redis) -> JobStore:
    return JobStore(redis)


@pytest.fixture
def outbox(redis: Redis) -> Outbox:
    return Outbox(redis)


def test_deliveries_are_due_when_the_job_ends_and_not_before(jobs: JobStore, outbox: Outbox) -> None:
    job_id = record(jobs, HOOK, PUSH)
    assert jobs.claim(job_id, "owner", LEASE_S)
    jobs.update(job_id, "owner", progress=0.5)
    assert outbox.queues() == []
    jobs.finish(job_id, "owner", JobState.SUCCEEDED)
    assert outbox.queues() == sorted([queue_of(HOOK), queue_of(PUSH)])
    assert taken(outbox, HOOK).id == f"{job_id}-0"
    assert taken(outbox, PUSH).id == f"{job_id}-1"
    assert [delivery.state for delivery in jobs.get(job_id).deliveries] == [ErrandState.PENDING] * 2


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.FAILED])
def test_a_job_ended_from_outside_has_its_deliveries_due_too(jobs: JobStore, outbox: Outbox, state: JobState) -> None:
    job_id = record(jobs, HOOK)
    jobs.end(job_id, state)
    assert taken(outbox, HOOK).job_id == job_id


def test_a_fetch_is_due_at_once_and_keeps_the_reaper_from_sending_the_job(
    jobs: JobStore, outbox: Outbox, redis: Redis, settings: Settings
) -> None:
    sent: list[str] = []
    maintenance = Maintenance(redis, BlobStore(settings.blob_url), sent.append, settings)
    job_id = record(jobs, fetch=FETCH)
    waited = {job_id: time.time() - 3600}
    redis.zadd("jobs:active", waited)
    maintenance.reap()
    assert sent == []
    assert outbox.deliver(taken(outbox, FETCH))
    redis.zadd("jobs:active", waited)
    maintenance.reap()
    assert sent == [job_id]


def test_one_courier_at_a_time_and_the_next_when_the_first_is_dead(jobs: JobStore, outbox: Outbox) -> None:
    ended(jobs, HOOK)
    first = outbox.claim(queue_of(HOOK), "first", 0.3)
    assert first is not None
    assert outbox.claim(queue_of(HOOK), "second", LEASE_S) is None
    assert outbox.renew(first, 0.3)
    time.sleep(0.35)
    second = outbox.claim(queue_of(HOOK), "second", LEASE_S)
    assert second is not None
    assert (second.id, second.errand.attempts, second.errand.lost) == (first.id, 2, 1)
    assert not outbox.renew(first, LEASE_S)
    assert not outbox.deliver(first), "it is the second's now"
    assert outbox.deliver(second)
    assert outbox.claim(queue_of(HOOK), "third", LEASE_S) is None
    assert outbox.queues() == []


def test_a_failed_attempt_waits_until_another_gets_through(jobs: JobStore, outbox: Outbox) -> None:
    late, soon = ended(jobs, PUSH), ended(jobs, PUSH)
    assert outbox.postpone(taken(outbox, PUSH), "away", 3600)
    second = taken(outbox, PUSH)
    assert second.job_id == soon
    (waiting,) = jobs.get(late).deliveries
    assert (waiting.state, waiting.last_error) == (ErrandState.PENDING, "away")
    assert waiting.next_attempt == pytest.approx(time.time() + 3600, abs=5)
    assert outbox.claim(queue_of(PUSH), "too early", LEASE_S) is None
    assert outbox.deliver(second)
    again = taken(outbox, PUSH)
    assert again.job_id == late, "the destination is back"
    assert (again.errand.attempts, again.errand.lost) == (2, 0)


def test_the_dead_are_listed_and_can_be_replayed(jobs: JobStore, outbox: Outbox) -> None:
    job_id = ended(jobs, PUSH)
    assert outbox.bury(taken(outbox, PUSH), "refused")
    ((delivery_id, dead),) = outbox.listed(ErrandState.DEAD, 10)
    assert (delivery_id, dead.state, dead.last_error) == (f"{job_id}-0", ErrandState.DEAD, "refused")
    assert outbox.listed(ErrandState.PENDING, 10) == []
    replayed = outbox.replay(delivery_id)
    assert (replayed.state, replayed.attempts) == (ErrandState.PENDING, 0)
    assert outbox.listed(ErrandState.DEAD, 10) == []
    assert [listed_id for listed_id, _ in outbox.listed(ErrandState.PENDING, 10)] == [delivery_id]
    again = taken(outbox, PUSH)
    assert (again.id, again.errand.attempts, again.errand.lost) == (delivery_id, 1, 0)


def test_a_replay_disturbs_nobody_and_nothing_else(jobs: JobStore, outbox: Outbox) -> None:
    running = record(jobs, HOOK)
    assert outbox.replay(f"{running}-0").state is ErrandState.PENDING
    assert outbox.queues() == [], "its job has not ended"
    ended(jobs, PUSH)
    held = taken(outbox, PUSH)
    outbox.replay(held.id)
    assert outbox.claim(queue_of(PUSH), "another", LEASE_S) is None
    for unknown in (f"{running}-7", f"{running}-fetch", f"{running}", "", "x" * 500):
        with pytest.raises(DeliveryUnknown):
            outbox.replay(unknown)


@pytest.mark.parametrize("moment", ["due", "held", "dead"])
def test_a_purge_takes_everything_of_the_outbox_along(
    jobs: JobStore, outbox: Outbox, redis: Redis, moment: str
) -> None:
    job_id = ended(jobs, HOOK, PUSH)
    if moment != "due":
        held = taken(outbox, PUSH)
        if moment == "dead":
            outbox.bury(held, "refused")
    jobs.purge(job_id)
    if moment == "held":
        assert not outbox.deliver(held)
    assert [key for key in redis.keys("*") if job_id.encode() in key] == [f"job:{job_id}:gone".encode()]
    for queue in outbox.queues():
        assert outbox.claim(queue, "another", LEASE_S) is None
    assert outbox.listed(ErrandState.DEAD, 10) == []
    assert sum(outbox.pending().values()) == 0


def test_files_outlast_their_time_only_while_a_delivery_may_still_succeed(
    jobs: JobStore, outbox: Outbox, redis: Redis, settings: Settings
) -> None:
    maintenance = Maintenance(redis, BlobStore(settings.blob_url), lambda _: None, settings)
    young, old = ended(jobs, PUSH), ended(jobs, PUSH)
    taken(outbox, PUSH), taken(outbox, PUSH)
    given_up = PUSH.model_copy(update={"since": time.time() - settings.delivery_max_age_s - 1})
    redis.hset(f"job:{old}", "errand.0", given_up.model_dump_json())
    redis.zadd("jobs:expiry", {young: 1, old: 1})
    maintenance.purge_expired()
    assert jobs.get(young).state is JobState.SUCCEEDED
    assert jobs.due() == [], "it is not looked at again at once"
    with pytest.raises(JobExpired):
        jobs.get(old)


def test_a_dead_letter_lasts_long_enough_to_be_replayed(jobs: JobStore) -> None:
    job_id = ended(jobs, PUSH)
    planned = jobs.get(job_id).expires
    jobs.keep(job_id, planned - 100)
    assert jobs.get(job_id).expires == planned
    jobs.keep(job_id, planned + 100)
    assert jobs.get(job_id).expires == planned + 100


def test_many_at_once_are_each_taken_once(jobs: JobStore, outbox: Outbox) -> None:
    expected = {ended(jobs, PUSH) for _ in range(40)}
    seen = [claimed.job_id for claimed in iter(lambda: outbox.claim(queue_of(PUSH), "one", LEASE_S), None)]
    assert len(seen) == len(expected)
    assert set(seen) == expected


def record(jobs: JobStore, *deliveries: Errand, fetch: Errand | None = None) -> str:
    """A queued job."""
    job_id, now = new_job_id(), time.time()
    request = SegmentationRequest(model="tiny", checkpoint_digest="0" * 64, input_name="input.nii")
    policy = PolicyReport(outside=OutsidePolicy.CLAMP)
    errands = {"fetch": fetch, "deliveries": deliveries}
    jobs.create(
        Job.model_validate(
            {"id": job_id, "model": "tiny", "policy": policy, "created": now, "expires": now + 600} | errands
        ),
        request,
    )
    return job_id


def ended(jobs: JobStore, *deliveries: Errand) -> str:
    job_id = record(jobs, *deliveries)
    assert jobs.claim(job_id, "owner", LEASE_S)
    assert jobs.finish(job_id, "owner", JobState.SUCCEEDED)
    return job_id


def taken(outbox: Outbox, errand: Errand) -> Claimed:
    claimed = outbox.claim(queue_of(errand), "courier", LEASE_S)
    assert claimed is not None
    return claimed
