"""Workers are killed, stopped and poisoned in the middle of jobs; no job is lost, none runs to two ends."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.settings import FactorySettings
from tests.system.processes import alive, until
from tests.system.worker_process import Bench, WorkerProcess
from unet_factory.domain.errors import JobExpired
from unet_factory.domain.jobs import WEIGHTS_QUEUE, JobState
from unet_factory.jobs.presence import present
from unet_factory.platform.weight_cache import WeightCache

log = logging.getLogger(__name__)

LONG = 112  # voxels per axis: some seconds in windows of 32
SHORT = 16
RECOVERY_LIMIT_S = 60.0

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Bench]:
    with Bench.of_tiny_models(tmp_path_factory.mktemp("bench"), tiny_models, upload_retention_s=600.0) as bench:
        yield bench


class Workers:
    """Keeps one worker at a time."""

    def __init__(self, settings: FactorySettings) -> None:
        self._settings = settings
        self.current: WorkerProcess | None = None

    def get(self) -> WorkerProcess:
        if self.current is None or not self.current.alive():
            self.current = WorkerProcess(self._settings)
        return self.current


@pytest.fixture(scope="module")
def workers(bench: Bench) -> Iterator[Workers]:
    workers = Workers(bench.settings)
    yield workers
    if workers.current is not None:
        workers.current.kill_group()


@pytest.fixture(scope="module")
def undisturbed(bench: Bench, workers: Workers) -> bytes:
    """The result of the same job when nothing happens."""
    workers.get()
    job_id = bench.submit(LONG)
    assert until(lambda: bench.ended(job_id)).attempts == 1
    return result(bench, job_id)


@pytest.mark.parametrize("victim", ["child", "parent", "group"])
def test_a_killed_worker_costs_no_job(bench: Bench, workers: Workers, undisturbed: bytes, victim: str) -> None:
    worker = workers.get()
    job_id = bench.submit(LONG)
    child = bench.worker_up().pid
    until(lambda: bench.started(job_id))
    killed = time.monotonic()
    if victim == "child":
        os.kill(child, signal.SIGKILL)
    elif victim == "parent":
        worker.signal(signal.SIGKILL)
        worker.wait()
        until(lambda: not alive(child))  # nobody would ever give it work again
    else:
        worker.kill_group()
    workers.get()
    job = until(lambda: bench.ended(job_id), RECOVERY_LIMIT_S)
    log.info("kill -9 of the %s: the job ended %.1f s later", victim, time.monotonic() - killed)
    assert (job.state, job.attempts, job.progress) == (JobState.SUCCEEDED, 2, 1.0)
    assert result(bench, job_id) == undisturbed


def test_a_job_that_kills_its_worker_three_times_fails_and_is_not_tried_again(bench: Bench, workers: Workers) -> None:
    workers.get()
    job_id = bench.submit(LONG)
    for attempt in (1, 2, 3):
        until(lambda attempt=attempt: bench.started(job_id, attempt))  # type: ignore[misc]
        os.kill(bench.worker_up().pid, signal.SIGKILL)
    job = until(lambda: bench.ended(job_id))
    assert (job.state, job.attempts) == (JobState.FAILED, 3)
    assert job.error is not None
    assert job.error.type.endswith(":worker-lost")
    other = bench.submit(SHORT)
    assert until(lambda: bench.ended(other)).state is JobState.SUCCEEDED
    assert bench.jobs.get(job_id) == job


def test_cancel_and_purge_stop_a_running_job_and_leave_no_result(bench: Bench, workers: Workers) -> None:
    workers.get()
    cancelled, purged = bench.submit(LONG), bench.submit(LONG)
    until(lambda: bench.started(cancelled))
    assert bench.lifecycle.cancel(cancelled)
    stopped = time.monotonic()
    until(lambda: bench.started(purged))
    log.info("after a cancel the worker was at the next job %.2f s later", time.monotonic() - stopped)
    bench.lifecycle.purge(purged)
    other = bench.submit(SHORT)
    assert until(lambda: bench.ended(other)).state is JobState.SUCCEEDED
    assert bench.jobs.get(cancelled).state is JobState.CANCELLED
    assert bench.stored(cancelled) == ["input.nii"]
    assert bench.stored(purged) == []
    with pytest.raises(JobExpired):
        bench.jobs.get(purged)


def test_a_deadline_ends_a_job(bench: Bench, workers: Workers) -> None:
    workers.get()
    job_id = bench.submit(LONG, deadline_s=0.5)
    job = until(lambda: bench.ended(job_id))
    assert (job.state, job.attempts) == (JobState.FAILED, 1)
    assert job.error is not None
    assert job.error.type.endswith(":deadline-exceeded")
    assert bench.stored(job_id) == ["input.nii"]


def test_a_network_is_made_before_queued_scans(bench: Bench, workers: Workers) -> None:
    workers.get()
    running, queued, last = bench.submit(LONG), bench.submit(LONG), bench.submit(SHORT)
    until(lambda: bench.started(running))
    request = bench.order_network((1350, 1400, 1450))
    until(lambda: WeightCache(bench.redis).get(request))
    assert bench.jobs.get(running).state is JobState.SUCCEEDED
    assert not bench.jobs.get(queued).state.final
    bench.lifecycle.cancel(queued)
    assert until(lambda: bench.ended(last)).state is JobState.SUCCEEDED


def test_a_flood_of_orders_does_not_keep_a_scan_waiting(bench: Bench, workers: Workers) -> None:
    workers.get()
    running = bench.submit(LONG)
    until(lambda: bench.started(running))
    flood = [bench.order_network((1000, 1000, 500 + 50 * (n % 60))) for n in range(400)]
    waiting = bench.submit(SHORT)
    assert until(lambda: bench.ended(waiting)).state is JobState.SUCCEEDED
    assert bench.redis.llen(WEIGHTS_QUEUE) > len(flood) // 2
    until(lambda: bench.redis.llen(WEIGHTS_QUEUE) == 0)


def test_lost_messages_are_sent_again(bench: Bench, workers: Workers) -> None:
    workers.get()
    running, lost = bench.submit(LONG), bench.submit(SHORT)
    until(lambda: bench.started(running))
    assert bench.redis.delete("segmentations") == 1
    assert until(lambda: bench.ended(lost)).state is JobState.SUCCEEDED


def test_an_outage_of_the_queue_in_the_middle_of_a_job_costs_no_job(bench: Bench, workers: Workers) -> None:
    workers.get()
    running, queued = bench.submit(LONG), bench.submit(SHORT)
    until(lambda: bench.started(running))
    bench.outage(1.5 * bench.settings.lease_s)
    for job_id in (running, queued):
        job = until(lambda job_id=job_id: bench.ended(job_id))  # type: ignore[misc]
        assert job.state is JobState.SUCCEEDED


def test_told_to_stop_a_worker_finishes_its_job_and_told_again_it_leaves(bench: Bench, workers: Workers) -> None:
    worker = workers.get()
    finished, left = bench.submit(LONG), bench.submit(LONG)
    until(lambda: bench.started(finished))
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert bench.jobs.get(finished).state is JobState.SUCCEEDED
    assert bench.jobs.get(left).attempts == 0
    assert present(bench.redis) == []
    worker = workers.get()
    until(lambda: bench.started(left))
    until(lambda: told_to_stop_again_and_gone(worker), timeout_s=10)
    assert worker.wait() == 1
    assert bench.jobs.get(left).state is JobState.RUNNING
    bench.lifecycle.cancel(left)


def test_a_worker_whose_model_cannot_be_loaded_ends_with_an_error(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"not a checkpoint")
    assert WorkerProcess(bench.settings.model_copy(update={"models_dir": tmp_path})).wait() == 1


def told_to_stop_again_and_gone(worker: WorkerProcess) -> bool:
    worker.signal(signal.SIGTERM)
    return not worker.alive()


def result(bench: Bench, job_id: str) -> bytes:
    with bench.blobs.local(job_id, "labelmap.nii.gz") as path:
        return path.read_bytes()
