"""Models are exchanged under a running factory, and its processes die at the wrong moment."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.system.processes import alive, until
from tests.system.serve_process import ServeProcess, children
from tests.system.test_hangs import LONG, SHORT, noise
from unet_factory.domain.jobs import Job, JobState
from unet_factory_client import FactoryClient

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def models(tmp_path: Path, tiny_models: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "tiny.safetensors").write_bytes((tiny_models / "tiny.safetensors").read_bytes())
    return folder


@pytest.fixture
def factory(tmp_path: Path, models: Path) -> Iterator[ServeProcess]:
    settings = {"lease_s": 2, "maintenance_interval_s": 0.5, "threads": 1, "device": "cpu"}
    serve = ServeProcess(tmp_path, models, **settings)
    try:
        yield serve
        assert serve.stop() == 0, serve.log
    finally:
        serve.kill()


def test_a_model_that_is_replaced_while_the_worker_dies_costs_no_later_job(
    factory: ServeProcess, models: Path, tmp_path: Path
) -> None:
    """A job pinned to the replaced file is told so; it is never run with other weights in silence."""
    with factory.client as client:
        before = digest(client)
        pinned = client.submit(noise(tmp_path, LONG))
        until(lambda: client.job(pinned.id).progress > 0)
        replace(models / "tiny.safetensors")
        kill_child(factory)
        until(lambda: digest(client) != before)
        fresh = client.submit(noise(tmp_path, SHORT))
        lost = until(lambda: ended(client, pinned.id))
        assert lost.state is JobState.FAILED
        assert lost.error is not None
        assert lost.error.type.endswith(":unknown-model")
        assert "was replaced or removed" in lost.error.detail
        assert "send the request again" in lost.error.detail
        assert until(lambda: ended(client, fresh.id)).state is JobState.SUCCEEDED


def test_half_a_file_among_the_models_harms_no_other(factory: ServeProcess, models: Path, tmp_path: Path) -> None:
    whole = (models / "tiny.safetensors").read_bytes()
    (models / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    kill_child(factory)
    with factory.client as client:
        until(client.ready)
        job = client.wait(client.submit(noise(tmp_path, SHORT)).id)
        assert job.state is JobState.SUCCEEDED
        assert [model.name for model in client.models()] == ["tiny"]
    until(lambda: refused(factory) >= 1)
    assert "half.safetensors is refused" in factory.log
    (models / "half.safetensors").unlink()
    until(lambda: refused(factory) == 0)


def replace(file: Path) -> None:
    """By a checkpoint whose last weight differs in its last bit, at once and as a whole."""
    changed = bytearray(file.read_bytes())
    changed[-4] ^= 1
    new = file.with_suffix(".new")
    new.write_bytes(changed)
    new.rename(file)


def kill_child(factory: ServeProcess) -> None:
    (child,) = children(factory.pid_of("unet_factory_cli", "worker"))
    os.kill(child, signal.SIGKILL)
    until(lambda: not alive(child))


def digest(client: FactoryClient) -> str:
    (model,) = client.models()
    return model.digest


def ended(client: FactoryClient, job_id: str) -> Job | None:
    job = client.job(job_id)
    return job if job.state.final else None


def refused(factory: ServeProcess) -> float:
    """As the metrics tell after a probe: when it is asked, the gateway looks at the folder."""
    httpx.get(f"{factory.url}/readyz", trust_env=False, timeout=10)
    text = httpx.get(f"{factory.url}/metrics", trust_env=False, timeout=10).text
    lines = [line for line in text.splitlines() if line.startswith("unet_factory_models_refused")]
    return max((float(line.rpartition(" ")[2]) for line in lines), default=0.0)
