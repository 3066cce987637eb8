"""Couriers, archives and receivers are killed and stopped in the middle of deliveries; each is made in the end."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from redis import Redis

from tests.fixtures.dicom_files import mr_series, saved
from tests.fixtures.settings import FactorySettings
from tests.fixtures.webhook_receiver import SECRET, Receiver, receiving
from tests.system.courier_process import CourierProcess
from tests.system.orthanc import Orthanc, needs_orthanc
from tests.system.processes import until
from tests.system.serve_process import ServeProcess
from unet_factory.domain.jobs import (
    SEGMENT_QUEUE,
    Delivery,
    DeliveryKind,
    DeliveryState,
    Job,
    JobState,
    PacsSeries,
    PolicyReport,
    SegmentationRequest,
    new_job_id,
)
from unet_factory.domain.spacing import OutsidePolicy
from unet_factory.jobs.deliveries import DeliveryStore
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore

pytestmark = [pytest.mark.system, pytest.mark.slow]

HOOK = Delivery(kind=DeliveryKind.WEBHOOK, destination="127.0.0.1")
PUSH = Delivery(kind=DeliveryKind.DICOMWEB, destination="main")
FETCH = Delivery(kind=DeliveryKind.FETCH, destination="main")


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with Orthanc.running(tmp_path / "orthanc") as orthanc:
        yield orthanc


@pytest.fixture
def settings(settings: FactorySettings, tmp_path: Path) -> FactorySettings:
    quick = {"delivery_backoff_s": 0.2, "delivery_backoff_max_s": 0.5, "lease_s": 1.0}
    return settings.model_copy(update=quick | {"destinations": tmp_path / "destinations.yml"})


@pytest.fixture
def desk(redis: Redis, settings: FactorySettings, tmp_path: Path) -> "Desk":
    return Desk(redis, settings, tmp_path)


class Desk:
    """Jobs as gateway and worker leave them to the couriers."""

    def __init__(self, redis: Redis, settings: FactorySettings, folder: Path) -> None:
        self.jobs, self.deliveries, self.redis = JobStore(redis), DeliveryStore(redis), redis
        self.blobs = BlobStore(settings.blob_url)
        self.lifecycle = JobLifecycle(redis, self.blobs)
        self.settings, self.folder = settings, folder

    def configure(self, pacs_url: str | None = None) -> None:
        pacs = {} if pacs_url is None else {"main": {"dicomweb": {"url": pacs_url, "timeout_s": 5}}}
        (self.folder / "destinations.yml").write_text(yaml.safe_dump({"pacs": pacs, **hooks()}))

    @contextmanager
    def courier(self) -> Iterator[CourierProcess]:
        courier = CourierProcess(self.settings, self.folder / "courier.log", WEBHOOK_SECRET=SECRET)
        try:
            yield courier
        finally:
            courier.kill()

    def submit(self, *deliveries: Delivery, fetch: Delivery | None = None, **wishes: Any) -> str:
        job_id, now = new_job_id(), time.time()
        request = SegmentationRequest(model="tiny", checkpoint_digest="0" * 64, input_name="input.zip", **wishes)
        policy = PolicyReport(outside=OutsidePolicy.CLAMP)
        job = Job(
            id=job_id, model="tiny", policy=policy, created=now, expires=now + 600, fetch=fetch, deliveries=deliveries
        )
        self.jobs.create(job, request)
        return job_id

    def finished(self, *deliveries: Delivery, **wishes: Any) -> str:
        """A job with DICOM results that has succeeded."""
        job_id = self.submit(*deliveries, **wishes)
        assert self.lifecycle.claim(job_id, "worker", 60)
        for name, file in zip(("seg.dcm", "report.dcm"), saved(mr_series(2), self.folder / job_id), strict=True):
            self.blobs.put(job_id, name, file)
        assert self.lifecycle.finish(job_id, "worker", JobState.SUCCEEDED)
        return job_id

    def delivered(self, job_id: str) -> Callable[[], bool]:
        return lambda: all(one.state is DeliveryState.DELIVERED for one in self.jobs.get(job_id).deliveries)

    @property
    def audited(self) -> list[dict[str, str]]:
        """The trail of exports; it goes to standard output, as the log does to standard error."""
        return [json.loads(line) for line in self.log.splitlines() if '"action":"export"' in line]

    @property
    def log(self) -> str:
        return (self.folder / "courier.log").read_text()


def test_a_courier_killed_in_the_middle_of_a_delivery_costs_a_lease_and_no_delivery(desk: Desk) -> None:
    desk.configure()
    with receiving() as receiver:
        receiver.silent.set()
        job_id = desk.finished(HOOK, callback_url=receiver.url)
        with desk.courier() as first:
            until(lambda: receiver.requests)
            first.kill()
        receiver.silent.clear()
        killed = time.monotonic()
        with desk.courier() as second:
            until(desk.delivered(job_id))
            assert time.monotonic() - killed < 15
            assert second.stop() == 0
        (delivery,) = desk.jobs.get(job_id).deliveries
        assert delivery.attempts == 2
        assert set(receiver.ids) == {f"{job_id}-0"}
        receiver.verified()


@needs_orthanc
def test_an_archive_stopped_during_the_push_gets_everything_after_its_return(desk: Desk, orthanc: Orthanc) -> None:
    desk.configure(orthanc.dicomweb_url)
    with receiving() as receiver, desk.courier():
        before = desk.finished(PUSH)
        until(desk.delivered(before))
        orthanc.stop()
        during = [desk.finished(PUSH, HOOK, callback_url=receiver.url) for _ in range(3)]
        until(lambda: len(receiver.requests) == 3)  # the dead archive holds up nobody else
        until(lambda: all(desk.jobs.get(job_id).deliveries[0].attempts >= 2 for job_id in during))
        assert {desk.jobs.get(job_id).deliveries[0].state for job_id in during} == {DeliveryState.PENDING}
        orthanc.start()
        for job_id in during:
            until(desk.delivered(job_id))
        assert len(orthanc.instances()) == 2 * 4
    for job_id in during:
        lines = [line for line in desk.audited if line["job"] == job_id]
        assert [line["outcome"] for line in lines if line["destination"] == "127.0.0.1"] == ["ok"]
        archived = [line["outcome"] for line in lines if line["destination"] == "main"]
        assert (set(archived[:-1]), archived[-1]) == ({"failed"}, "ok")


@needs_orthanc
def test_a_courier_killed_in_the_middle_of_a_fetch_is_replaced(desk: Desk, orthanc: Orthanc) -> None:
    """The first one is killed while the archive is away; the job is not sent to workers before its scan is there."""
    desk.configure(orthanc.dicomweb_url)
    slices = mr_series(5)
    orthanc.upload_folder(saved(slices, desk.folder / "series")[0].parent)
    series = PacsSeries(pacs="main", study_uid=slices[0].StudyInstanceUID, series_uid=slices[0].SeriesInstanceUID)
    orthanc.stop()
    job_id = desk.submit(fetch=FETCH, series=series)
    with desk.courier() as first:
        until(lambda: (fetch := desk.jobs.get(job_id).fetch) is not None and fetch.attempts >= 2)
        first.kill()
    assert desk.redis.llen(SEGMENT_QUEUE) == 0
    orthanc.start()
    with desk.courier():
        until(lambda: desk.redis.llen(SEGMENT_QUEUE) == 1)
    job = desk.jobs.get(job_id)
    assert (job.state, job.spacing.native) == (JobState.QUEUED, (1, 1, 2))
    assert "input.zip" in desk.blobs.names(job_id)
    for uid in (series.study_uid, series.series_uid, str(slices[0].SOPInstanceUID), str(slices[0].PatientName)):
        assert uid not in desk.log


@needs_orthanc
def test_the_whole_factory_pulls_segments_and_calls_back(
    orthanc: Orthanc, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    pacs = {"main": {"dicomweb": {"url": orthanc.dicomweb_url}}}
    (tmp_path / "destinations.yml").write_text(yaml.safe_dump({"pacs": pacs, **hooks()}))
    slices = mr_series(8)
    orthanc.upload_folder(saved(slices, tmp_path / "series")[0].parent)
    form = {"pacs": "main", "study_uid": slices[0].StudyInstanceUID, "series_uid": slices[0].SeriesInstanceUID}
    factory = ServeProcess(
        tmp_path,
        tiny_models,
        device="cpu",
        threads=1,
        delivery_backoff_s=0.2,
        destinations=tmp_path / "destinations.yml",
    )
    try:
        with receiving(500) as receiver, httpx.Client(base_url=factory.url, timeout=90) as http:
            answer = post(http, form | {"callback_url": receiver.url})
            assert answer.status_code == 202, answer.text
            told = until(lambda: ended(http, answer.json()["id"]))
            assert told["state"] == "succeeded", told["error"]
            assert told["fetch"]["state"] == "delivered"
            assert [one["kind"] for one in told["deliveries"]] == ["webhook", "dicomweb"]
            _answered_after_a_retry(receiver, told)
            until(lambda: orthanc.modalities(form["study_uid"]) == ["MR", "SEG", "SR"])
            refused = post(http, form | {"callback_url": "http://10.0.0.1/"})
            assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (422, "callback-refused")
            assert told["id"] not in command("deliveries", "list", "--url", factory.url)
            command("deliveries", "replay", f"{told['id']}-0", "--url", factory.url)
            until(lambda: receiver.ids == [f"{told['id']}-0"] * 3)
    finally:
        factory.stop()
    for uid in (form["study_uid"], form["series_uid"], str(slices[0].PatientName)):
        assert uid not in factory.log


def _answered_after_a_retry(receiver: Receiver, told: dict[str, Any]) -> None:
    until(lambda: len(receiver.requests) == 2)
    for body in receiver.verified():
        assert body["type"] == "segmentation.succeeded"
        assert body["data"]["id"] == told["id"]  # type: ignore[index]


def command(*words: str) -> str:
    """What the command prints."""
    line = [sys.executable, "-m", "unet_factory_cli", *words]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def post(http: httpx.Client, form: dict[str, str]) -> httpx.Response:
    return http.post("/segmentations", files={name: (None, value) for name, value in form.items()})


def ended(http: httpx.Client, job_id: str) -> dict[str, Any] | None:
    job: dict[str, Any] = http.get(f"/segmentations/{job_id}").json()
    return job if job["finished"] else None


def hooks() -> dict[str, Any]:
    """Loopback by plain HTTP, listed."""
    return {"webhooks": {"allow": ["127.0.0.1"], "schemes": ["http"], "secrets": [{"env": "WEBHOOK_SECRET"}]}}
