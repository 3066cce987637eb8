"""A worker that is to end when nothing is left to do."""

from pathlib import Path

import pytest

from tests.system.worker_process import Bench, WorkerProcess
from unet_factory.domain.jobs import JobState

pytestmark = pytest.mark.system

SHORT_S = 0.5
JOBS = 2


def test_it_does_all_that_waits_and_then_ends_in_order(tmp_path: Path, tiny_models: Path) -> None:
    """A job takes longer than the worker may be idle: it is not idle while it works."""
    with Bench.of_tiny_models(tmp_path, tiny_models, idle_exit_s=SHORT_S, calibrate=False) as bench:
        job_ids = [bench.submit(64, 0.5 + number / 10) for number in range(JOBS)]
        worker = WorkerProcess(bench.settings)
        try:
            assert worker.wait(120) == 0
        finally:
            worker.kill_group()
        assert [bench.jobs.get(job_id).state for job_id in job_ids] == [JobState.SUCCEEDED] * JOBS
