"""The whole path on a real S3 server: gateway, worker and courier as processes, while requests are lost or refused."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from redis import Redis

from tests.fixtures.dicom_files import as_bytes, mr_series
from tests.fixtures.s3 import BUCKET, FAULTS, FaultyProxy, direct, s3_environment, s3_server
from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import write_nifti
from tests.system.courier_process import CourierProcess
from tests.system.gateway_process import gateway_process
from tests.system.processes import free_port, until
from tests.system.worker_process import WorkerProcess
from unet_factory.jobs.presence import present
from unet_factory_cli.embedded import JOBS_OPTIONS, EmbeddedServer

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

PREFIX = f"{BUCKET}/factory"
STOW = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
DICOM = {"Accept": 'multipart/related; type="application/dicom"'}


@dataclass
class Factory:
    """Running on S3 behind ``proxy``."""

    url: str
    proxy: FaultyProxy
    redis: Redis
    logs: Path

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, f"{self.url}{path}", timeout=120, trust_env=False, **options)

    def until_taken(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Asked again while the answer is 503, as it must say."""

        def ask() -> httpx.Response | None:
            answer = self.ask(method, path, **options)
            if answer.status_code == 503:
                assert int(answer.headers["Retry-After"]) > 0
                return None
            return answer

        return until(ask, 120)

    def submit(self, scan: Path) -> str:
        answer = self.until_taken("POST", "/segmentations", files={"file": scan.read_bytes()})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def ended(self, job_id: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            job: dict[str, Any] = self.until_taken("GET", f"/segmentations/{job_id}").json()
            return job if job["state"] in ("succeeded", "failed", "cancelled") else None

        return until(look, 120)

    def labelmap(self, job_id: str) -> bytes:
        job = self.ended(job_id)
        assert job["state"] == "succeeded", job
        answer = self.until_taken("GET", f"/segmentations/{job_id}/labelmap")
        assert answer.status_code == 200, answer.text
        return answer.content

    def objects(self) -> set[str]:
        """What is in the bucket, as ``jobs/ID`` and ``received/SERIES``."""
        found = direct(self.proxy.server_port).find(PREFIX)
        return {"/".join(path.removeprefix(f"{PREFIX}/").split("/")[:2]) for path in found}


@pytest.fixture(scope="module")
def factory(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    folder = tmp_path_factory.mktemp("s3")
    with ExitStack() as stack:
        server = EmbeddedServer.start(folder / "redis", JOBS_OPTIONS)
        stack.callback(server.stop)
        proxy = FaultyProxy(stack.enter_context(s3_server(folder / "moto.log")))
        proxy.start()
        stack.callback(proxy.stop)
        stack.enter_context(s3_environment(proxy.port))
        (folder / "routing.yml").write_text(yaml.safe_dump({"rules": [{"model": "tiny", "send_to": ["self"]}]}))
        settings = FactorySettings(
            redis_url=server.redis_url,
            blob_url=f"s3://{PREFIX}",
            models_dir=tiny_models,
            device="cpu",
            threads=1,
            lease_s=2.0,
            maintenance_interval_s=0.5,
            series_quiet_s=0.5,
            delivery_backoff_s=0.2,
            delivery_backoff_max_s=0.5,
            calibrate=False,
            destinations=folder / "destinations.yml",
        )
        port = free_port()
        archive = {"dicomweb": {"url": f"http://127.0.0.1:{port}/dicomweb", "timeout_s": 60}}
        (folder / "destinations.yml").write_text(yaml.safe_dump({"pacs": {"self": archive}}))
        worker = WorkerProcess(settings)
        stack.callback(worker.kill_group)
        courier = CourierProcess(settings, folder / "courier.log")
        stack.callback(courier.kill)
        routing: dict[str, Any] = {"routing": folder / "routing.yml"}
        address = stack.enter_context(gateway_process(settings, folder / "gateway.log", port=port, **routing))
        redis = stack.enter_context(Redis.from_url(server.redis_url))
        until(lambda: present(redis), 60)
        yield Factory("http://{}:{}".format(*address), proxy, redis, folder)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).normal(size=(24, 24, 24)).astype(np.float32)
    return write_nifti(tmp_path / "scan.nii.gz", noise)


def test_scans_become_results_are_delivered_and_leave_nothing_though_requests_fail(
    factory: Factory, scan: Path
) -> None:
    undisturbed = factory.labelmap(quiet := factory.submit(scan))
    factory.proxy.every = 4
    jobs = [factory.submit(scan) for _ in range(3)]
    series = mr_series(slices=6, extent=16)
    sent = factory.until_taken("POST", "/dicomweb/studies", content=multipart(series), headers=STOW)
    assert sent.status_code == 200, sent.text
    study = series[0].StudyInstanceUID
    assert {factory.labelmap(job_id) for job_id in jobs} == {undisturbed}

    until(lambda: len(series_jobs(factory, quiet, *jobs)) > 0, 60)
    retrieved = factory.until_taken("GET", f"/dicomweb/studies/{study}", headers=DICOM)
    assert retrieved.status_code == 200
    assert retrieved.content.count(b"Content-Type: application/dicom") == 2, "a segmentation and a report"
    until(lambda: any(deliveries(factory, job) == ["delivered"] for job in series_jobs(factory, quiet, *jobs)), 60)
    assert all(factory.proxy.faults[fault] for fault in FAULTS), factory.proxy.faults
    factory.redis.zadd("jobs:expiry", dict.fromkeys(jobs[1:], 0))

    def nothing_left() -> bool:
        for job_id in listed(factory) - set(jobs[1:]):  # a second job of the series may begin only now
            assert factory.until_taken("DELETE", f"/segmentations/{job_id}").status_code in (204, 404, 410)
        if received := {name: 0 for name, _ in factory.redis.zscan_iter("received:expiry")}:
            factory.redis.zadd("received:expiry", received)
        factory.redis.delete("received:purging")  # the gateways' next round is a minute away
        return not factory.objects()

    until(nothing_left, 60)
    factory.proxy.every = 0


def test_while_the_store_is_away_callers_get_503_and_jobs_wait_for_it(factory: Factory, scan: Path) -> None:
    finished = factory.submit(scan)
    undisturbed = factory.labelmap(finished)
    waiting = factory.submit(scan)
    factory.proxy.stop()
    for method, path, options in (
        ("POST", "/segmentations", {"files": {"file": scan.read_bytes()}}),
        ("GET", f"/segmentations/{finished}/labelmap", {}),
        ("POST", "/dicomweb/studies", {"content": multipart(mr_series(slices=2, extent=8)), "headers": STOW}),
    ):
        answer = factory.ask(method, path, **options)
        assert answer.status_code == 503, answer.text
        assert answer.json()["type"].endswith(":not-ready")
        assert int(answer.headers["Retry-After"]) > 0
    assert factory.ask("GET", "/livez").status_code == 200
    os.kill(present(factory.redis)[0].pid, signal.SIGKILL)  # its successor is forked beside a parent that uses S3
    until(lambda: factory.ask("GET", f"/segmentations/{waiting}").json()["state"] == "running", 60)
    factory.proxy.start()
    assert factory.labelmap(waiting) == undisturbed
    assert factory.labelmap(factory.submit(scan)) == undisturbed


def test_credentials_are_in_no_log(factory: Factory) -> None:
    logs = [path.read_text(errors="replace") for path in factory.logs.glob("*.log") if path.name != "moto.log"]
    assert any("blob store failed" in log for log in logs)
    assert not any("of-the-tests" in log for log in logs)


def listed(factory: Factory, **filters: str) -> set[str]:
    return {job["id"] for job in factory.ask("GET", "/segmentations", params=filters).json()["jobs"]}


def series_jobs(factory: Factory, *uploads: str) -> set[str]:
    """The succeeded jobs of the stored series: several, or a cancelled one beside, where a cut answer left a part."""
    return listed(factory, state="succeeded") - set(uploads)


def deliveries(factory: Factory, job_id: str) -> list[str]:
    return [one["state"] for one in factory.ask("GET", f"/segmentations/{job_id}").json()["deliveries"]]


def multipart(series: list[Any]) -> bytes:
    head = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + as_bytes(dataset) + b"\r\n" for dataset in series) + b"--b--\r\n"
