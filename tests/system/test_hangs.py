"""Processes that stop without dying, as a hang looks from outside: noticed, replaced, and never taken for ready."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest

from tests.system.processes import alive, until
from tests.system.serve_process import ServeProcess, children
from unet_factory.domain.jobs import JobState

log = logging.getLogger(__name__)

SILENCE_S = 4.0
PRESENCE_S = 2.0
REPLACED_WITHIN_S = 60.0
NOTICED_WITHIN_S = 2 * PRESENCE_S + 1.5  # and the machine may be busy
SHORT, LONG, LONGER = 16, 160, (160, 224, 288)  # voxels per axis: no time at all, seconds, and more and more of them

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[ServeProcess]:
    settings = {"silence_s": SILENCE_S, "presence_s": PRESENCE_S, "threads": 1, "device": "cpu"}
    serve = ServeProcess(tmp_path_factory.mktemp("serve"), tiny_models, **settings)
    try:
        yield serve
        assert serve.stop() == 0, serve.log
    finally:
        serve.kill()


def worker(factory: ServeProcess) -> int:
    return factory.pid_of("unet_factory_cli", "worker")


def worker_child(factory: ServeProcess) -> int:
    (pid,) = until(lambda: children(worker(factory)))
    return pid


def gateway(factory: ServeProcess) -> int:
    return factory.pid_of("unet_factory_cli", "gateway")


def job_server(factory: ServeProcess) -> int:
    return factory.pid_of("jobs/socket")


@pytest.mark.parametrize("victim", [worker_child, worker, gateway, job_server])
def test_a_stopped_process_is_replaced_and_meanwhile_nothing_says_ready(
    factory: ServeProcess, tmp_path: Path, victim: Callable[[ServeProcess], int]
) -> None:
    until(lambda: is_ready(factory), REPLACED_WITHIN_S)
    stopped = victim(factory)
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    try:
        until(lambda: not is_ready(factory), NOTICED_WITHIN_S)
        log.info("SIGSTOP of the %s: not ready after %.1f s", victim.__name__, time.monotonic() - began)
        until(lambda: not alive(stopped) and is_ready(factory), REPLACED_WITHIN_S)
        log.info("SIGSTOP of the %s: replaced after %.1f s", victim.__name__, time.monotonic() - began)
    finally:
        if alive(stopped):
            os.kill(stopped, signal.SIGCONT)
    with factory.client as client:
        job = client.wait(client.submit(noise(tmp_path, SHORT)).id)
    assert job.state is JobState.SUCCEEDED


def test_a_busy_process_is_left_alone(factory: ServeProcess, tmp_path: Path) -> None:
    until(lambda: is_ready(factory), REPLACED_WITHIN_S)
    before = worker(factory), worker_child(factory), gateway(factory)
    busy_s = 0.0
    with factory.client as client:
        for extent in LONGER:
            began = time.monotonic()
            job = client.wait(client.submit(noise(tmp_path, extent)).id)
            busy_s = time.monotonic() - began
            assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
            if busy_s > 1.5 * SILENCE_S:
                break
    assert busy_s > 1.5 * SILENCE_S, "no scan kept the worker busy for long enough to tell"
    assert (worker(factory), worker_child(factory), gateway(factory)) == before


def test_readiness_ends_soon_after_kill_9_of_the_worker(factory: ServeProcess) -> None:
    """With the default presence of a few heartbeats this takes seconds, whatever the lease is."""
    until(lambda: is_ready(factory), REPLACED_WITHIN_S)
    os.killpg(worker(factory), signal.SIGKILL)
    until(lambda: not is_ready(factory), NOTICED_WITHIN_S)
    until(lambda: is_ready(factory), REPLACED_WITHIN_S)


def is_ready(factory: ServeProcess) -> bool:
    try:
        return httpx.get(f"{factory.url}/readyz", timeout=0.5, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def noise(folder: Path, extent: int) -> Path:
    """A scan of ``extent`` voxels per axis."""
    path = folder / f"noise-{extent}.nii"
    voxels = np.random.default_rng(0).normal(size=(extent,) * 3).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    return path
