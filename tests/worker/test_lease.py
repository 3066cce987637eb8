"""A lease is renewed while work goes on, and its loss or end is noticed."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from redis import Redis

from tests.worker.conftest import Submit
from unet_factory.domain.errors import DeadlineExceeded
from unet_factory.domain.jobs import JobState
from unet_factory_worker.child import WorkerContext
from unet_factory_worker.job_hold import JobHold, JobLost

SCAN = np.zeros((4, 4, 4), np.float32)
LEASE_S = 1.5  # short, and yet longer than a busy machine may keep a thread waiting


def test_a_job_stays_ours_for_longer_than_one_lease(context: WorkerContext, submit: Submit) -> None:
    job_id = submit(SCAN)
    assert context.lifecycle.claim(job_id, "me", LEASE_S)
    with JobHold(context.lifecycle, job_id, "me", LEASE_S, deadline_s=60.0) as hold:
        time.sleep(2.5 * LEASE_S)
        hold.check()
        assert context.lifecycle.is_leased(job_id)
        assert not context.lifecycle.requeue(job_id)
    until(lambda: not context.lifecycle.is_leased(job_id))
    context.lifecycle.requeue(job_id)  # unless the maintenance of a gateway that other tests left running was first
    assert context.jobs.get(job_id).state is JobState.QUEUED


@pytest.mark.parametrize("event", ["cancelled", "purged", "taken over"])
def test_its_loss_is_noticed(context: WorkerContext, submit: Submit, redis: Redis, event: str) -> None:
    job_id = submit(SCAN)
    assert context.lifecycle.claim(job_id, "me", LEASE_S)
    with JobHold(context.lifecycle, job_id, "me", LEASE_S, deadline_s=60.0) as hold:
        hold.check()
        if event == "cancelled":
            context.lifecycle.cancel(job_id)
        elif event == "purged":
            context.lifecycle.purge(job_id)
        else:
            redis.set(f"job:{job_id}:lease", "somebody else")
        until(lambda: is_lost(hold))


def test_the_deadline_is_noticed(context: WorkerContext, submit: Submit) -> None:
    job_id = submit(SCAN)
    assert context.lifecycle.claim(job_id, "me", 5.0)
    with JobHold(context.lifecycle, job_id, "me", 5.0, deadline_s=0.0) as hold, pytest.raises(DeadlineExceeded):
        hold.check()


def is_lost(hold: JobHold) -> bool:
    try:
        hold.check()
    except JobLost:
        return True
    return False


def until(true: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
