"""Workers share the windows of one scan: the label map is that of one worker, bit for bit, whoever dies on the way."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.processes import alive, until
from tests.system.worker_process import Bench, WorkerProcess
from unet_factory.domain.jobs import JobState
from unet_factory.jobs.presence import present
from unet_factory_worker.window_sharing import VOLUME_NAME

EXTENT = 112  # voxels per axis: some hundred windows of 32
ENDS_WITHIN_S = 120.0

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Bench]:
    with Bench.of_tiny_models(
        tmp_path_factory.mktemp("bench"), tiny_models, calibrate=False, spread_windows=2
    ) as bench:
        yield bench


@pytest.fixture(scope="module")
def first(bench: Bench) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(bench.settings)
    yield worker
    worker.kill_group()


@pytest.fixture(scope="module")
def alone(bench: Bench, first: WorkerProcess) -> bytes:
    """The label map when there is nobody to help."""
    bench.worker_up()
    return ended(bench, bench.submit(EXTENT), attempts=1)


@pytest.fixture(scope="module")
def two(bench: Bench, alone: bytes) -> Iterator[None]:
    second = WorkerProcess(bench.settings)
    yield
    second.kill_group()


def test_two_workers_make_the_label_map_of_one(bench: Bench, alone: bytes, two: None) -> None:
    children(bench)
    job_id = bench.submit(EXTENT)
    until(lambda: any(name.startswith("window-") for name in bench.stored(job_id)))
    assert ended(bench, job_id, attempts=1) == alone


@pytest.mark.parametrize(("victim", "attempts"), [("helper", 1), ("holder", 2)])
def test_a_killed_worker_changes_nothing(bench: Bench, alone: bytes, two: None, victim: str, attempts: int) -> None:
    both = children(bench)
    job_id = bench.submit(EXTENT)
    helper = until(lambda: next((pid for pid in both if maps_the_volume(pid)), None))
    (holder,) = both - {helper}
    os.kill(helper if victim == "helper" else holder, signal.SIGKILL)
    assert ended(bench, job_id, attempts) == alone


def children(bench: Bench) -> set[int]:
    """The two processes that compute."""

    def up() -> set[int]:
        found = {worker.pid for worker in present(bench.redis) if alive(worker.pid)}
        return found if len(found) == 2 else set()

    return until(up)


def maps_the_volume(pid: int) -> bool:
    """As a helper does; who holds the job has the volume in its memory."""
    return VOLUME_NAME in Path(f"/proc/{pid}/maps").read_text()


def ended(bench: Bench, job_id: str, attempts: int) -> bytes:
    """The label map's bytes; of the sharing nothing is left."""
    job = until(lambda: bench.ended(job_id), ENDS_WITHIN_S)
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, attempts)
    until(lambda: not [name for name in bench.stored(job_id) if name.endswith(".window")])
    until(lambda: not [key for key in bench.redis.scan_iter(f"job:{job_id}:*") if b":lease" not in key])
    with bench.blobs.local(job_id, "labelmap.nii.gz") as file:
        return file.read_bytes()
