"""What a worker notes of its job reaches the record: together where it comes together, and all of it at the end."""

import pytest
from redis import Redis

from tests.worker.conftest import Submit
from unet_factory.domain.jobs import JobState
from unet_factory.jobs.store import JobStore
from unet_factory_worker import job_hold
from unet_factory_worker.child import WorkerContext
from unet_factory_worker.job_hold import JobLost, JobRecord


@pytest.fixture
def job_id(submit: Submit, context: WorkerContext) -> str:
    made = submit(b"")
    assert context.lifecycle.claim(made, "me", 60.0)
    return made


def test_notes_of_a_moment_are_written_together(
    context: WorkerContext, redis: Redis, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_hold, "WRITE_INTERVAL_S", 600.0)
    record, jobs = JobRecord(context.lifecycle, job_id, "me"), JobStore(redis)
    record.note(device="cpu")
    record.note(progress=0.5, timings_s={"load": 1.0})
    assert (jobs.get(job_id).device, jobs.get(job_id).progress) == (None, 0.0)
    record.write()
    job = jobs.get(job_id)
    assert (job.device, job.progress, job.timings_s) == ("cpu", 0.5, {"load": 1.0})
    record.write()  # there is nothing to write


def test_a_note_after_a_while_is_written_at_once(
    context: WorkerContext, redis: Redis, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_hold, "WRITE_INTERVAL_S", 0.0)
    JobRecord(context.lifecycle, job_id, "me").note(progress=0.25)
    assert JobStore(redis).get(job_id).progress == 0.25


def test_the_end_has_what_was_noted_before(context: WorkerContext, redis: Redis, job_id: str) -> None:
    record = JobRecord(context.lifecycle, job_id, "me")
    record.note(device="cpu", progress=0.5)
    record.finish(JobState.SUCCEEDED, progress=1.0)
    job = JobStore(redis).get(job_id)
    assert (job.state, job.device, job.progress) == (JobState.SUCCEEDED, "cpu", 1.0)


def test_a_job_that_is_another_s_is_lost(context: WorkerContext, job_id: str) -> None:
    record = JobRecord(context.lifecycle, job_id, "somebody else")
    record.note(progress=0.5)
    with pytest.raises(JobLost):
        record.write()
    with pytest.raises(JobLost):
        record.finish(JobState.SUCCEEDED)
