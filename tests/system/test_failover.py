"""The job store's primary is lost in the middle of work: a replica takes over, and no accepted job is lost."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import write_nifti
from tests.system.courier_process import CourierProcess
from tests.system.gateway_process import gateway_process
from tests.system.processes import until
from tests.system.redis_failover import Failover, failing_over
from tests.system.worker_process import WorkerProcess

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

JOBS = 4


@dataclass
class Factory:
    url: str
    stores: Failover
    logs: Path

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, f"{self.url}{path}", timeout=60, trust_env=False, **options)

    def submit(self, scan: Path) -> str | None:
        """The job's id, once it was accepted."""
        answer = self.ask("POST", "/segmentations", files={"file": scan.read_bytes()})
        if answer.status_code == 503:
            assert int(answer.headers["Retry-After"]) > 0
            return None
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def labelmap(self, job_id: str) -> bytes | None:
        """Once the job has succeeded; every answer on the way is a 200 or an honest 503."""
        answer = self.ask("GET", f"/segmentations/{job_id}")
        if answer.status_code == 503:
            return None
        assert answer.status_code == 200, answer.text
        job = answer.json()
        assert job["state"] in ("queued", "running", "succeeded"), job
        return self.ask("GET", f"/segmentations/{job_id}/labelmap").content if job["state"] == "succeeded" else None


@pytest.fixture
def factory(tiny_models: Path, tmp_path: Path) -> Iterator[Factory]:
    with ExitStack() as stack:
        stores = stack.enter_context(failing_over(tmp_path / "redis"))
        settings = FactorySettings(
            redis_url=stores.url,
            blob_url=(tmp_path / "blobs").as_uri(),
            models_dir=tiny_models,
            redis_replicas=1,
            device="cpu",
            threads=1,
            lease_s=2.0,
            maintenance_interval_s=0.5,
            calibrate=False,
        )
        worker = WorkerProcess(settings)
        stack.callback(worker.kill_group)
        courier = CourierProcess(settings, tmp_path / "courier.log")
        stack.callback(courier.kill)
        address = stack.enter_context(gateway_process(settings, tmp_path / "gateway.log"))
        yield Factory("http://{}:{}".format(*address), stores, tmp_path)


def test_accepted_jobs_survive_a_failover_and_every_role_finds_the_new_primary(
    factory: Factory, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).normal(size=(32, 32, 32)).astype(np.float32)
    scan = write_nifti(tmp_path / "scan.nii.gz", noise)
    accepted = [until(lambda: factory.submit(scan)) for _ in range(JOBS)]
    factory.stores.primary.kill()
    results = {until(lambda job_id=job_id: factory.labelmap(job_id), 120) for job_id in accepted}  # type: ignore[misc]
    assert len(results) == 1, "each is the label map of the same scan"
    refused = factory.ask("POST", "/segmentations", files={"file": scan.read_bytes()})
    assert refused.status_code == 503, "there is no replica any more that could have the job"
    assert "0 of 1 replicas" in refused.json()["detail"]
    assert {job["id"] for job in factory.ask("GET", "/segmentations").json()["jobs"]} == set(accepted)
    factory.stores.return_of_the_old_primary()
    late = until(lambda: factory.submit(scan), 60)
    assert until(lambda: factory.labelmap(late), 60) in results
    assert factory.ask("GET", "/readyz").status_code == 200
