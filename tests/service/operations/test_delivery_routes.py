"""Callbacks, archives and series as the gateway takes them: refused at once, or kept with the job."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import write_nifti
from tests.service.conftest import Gateway, RunGateway, Snapshot
from unet_factory.domain.jobs import SEGMENT_QUEUE, PacsSeries
from unet_factory.jobs.deliveries import DeliveryStore
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.store import JobStore

DESTINATIONS = {
    "pacs": {
        "main": {"dicomweb": {"url": "http://127.0.0.1:9"}, "results_to": ["main", "archive"]},
        "archive": {"dimse": {"host": "127.0.0.1", "called_aet": "ARCHIVE"}},
    },
    "webhooks": {"allow": ["hooks.example.org"], "secrets": [{"env": "NOT_KNOWN_TO_THE_GATEWAY"}]},
}
SERIES = {"pacs": "main", "study_uid": "1.2.840.99", "series_uid": "1.2.840.99.1"}
CALLBACK = "https://hooks.example.org/segmented?token=abc"


@pytest.fixture
def connected(run_gateway: RunGateway, settings: FactorySettings, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with destinations."""
    file = tmp_path / "destinations.yml"
    file.write_text(yaml.safe_dump(DESTINATIONS))
    with run_gateway(settings.model_copy(update={"destinations": file})) as gateway:
        yield gateway


@pytest.fixture
def http(connected: Gateway) -> httpx.Client:
    return connected.http


@pytest.fixture
def jobs(redis: Redis) -> JobStore:
    return JobStore(redis)


def test_a_series_in_an_archive_is_a_job_that_no_worker_gets_yet(
    http: httpx.Client, jobs: JobStore, redis: Redis
) -> None:
    answer = post(http, SERIES | {"callback_url": CALLBACK, "working_spacing": "2,2,2"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["state"], job["fetch"]["kind"], job["fetch"]["destination"]) == ("queued", "fetch", "main")
    kinds = [(one["kind"], one["destination"], one["state"], one["attempts"]) for one in job["deliveries"]]
    assert kinds == [
        ("webhook", "hooks.example.org", "pending", 0),
        ("dicomweb", "main", "pending", 0),
        ("dimse", "archive", "pending", 0),
    ]
    for private in (SERIES["series_uid"], SERIES["study_uid"], "token"):
        assert private not in answer.text + str(answer.headers)
    assert redis.llen(SEGMENT_QUEUE) == 0
    request = jobs.request(job["id"])
    assert request.series == PacsSeries(**SERIES)
    assert (request.send_to, request.callback_url) == (("main", "archive"), CALLBACK)
    assert http.get(answer.headers["Location"]).json() == job


@pytest.mark.parametrize(
    ("send_to", "expected"), [("archive", ["archive"]), (" archive , main,archive", ["archive", "main"]), ("", [])]
)
def test_the_caller_says_where_results_go(http: httpx.Client, send_to: str, expected: list[str]) -> None:
    job = post(http, SERIES | {"send_to": send_to}).json()
    assert [one["destination"] for one in job["deliveries"]] == expected


@pytest.mark.parametrize(
    ("changes", "status", "slug", "said"),
    [
        ({"pacs": "other"}, 422, "destination-unknown", "there are archive, main"),
        ({"pacs": "archive"}, 422, "destination-unknown", "with DICOMweb there is main"),
        ({"send_to": "main,other"}, 422, "destination-unknown", "archive, main"),
        ({"study_uid": None}, 400, "malformed-request", "missing: study_uid"),
        ({"series_uid": "1.2.840.99.x"}, 400, "malformed-request", "series_uid"),
        ({"series_uid": "1.2\\1.3"}, 400, "malformed-request", "series_uid"),
        ({"series_uid": "1." + "2" * 63}, 400, "malformed-request", "64"),
        ({"study_uid": "1.2\n"}, 400, "malformed-request", "study_uid"),
        ({"callback_url": "https://10.0.0.1/"}, 422, "callback-refused", "hooks.example.org"),
        ({"callback_url": "http://hooks.example.org/"}, 422, "callback-refused", "https"),
        ({"model": "none"}, 404, "unknown-model", "tiny"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    http: httpx.Client, snapshot: Snapshot, changes: dict[str, str | None], status: int, slug: str, said: str
) -> None:
    before = snapshot()
    fields = {name: value for name, value in (SERIES | changes).items() if value is not None}
    answer = post(http, fields)
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (status, slug)
    assert said in answer.json()["detail"]
    assert "99.x" not in answer.text
    assert snapshot() == before


def test_a_file_and_an_archive_together_are_refused(http: httpx.Client, tmp_path: Path) -> None:
    scan = {"file": write_nifti(tmp_path / "scan.nii.gz").read_bytes()}
    both = http.post("/segmentations", files=scan, data=SERIES)
    neither = post(http, {"model": "tiny"})
    assert both.status_code == neither.status_code == 400
    unfit = http.post("/segmentations", files=scan, data={"send_to": "main"})
    assert (unfit.status_code, unfit.json()["type"].rpartition(":")[2]) == (422, "not-supported")
    with_callback = http.post("/segmentations", files=scan, data={"callback_url": CALLBACK})
    assert [one["kind"] for one in with_callback.json()["deliveries"]] == ["webhook"]


def test_the_same_series_under_the_same_key_is_the_same_job(http: httpx.Client) -> None:
    headers = {"Idempotency-Key": "one"}
    first = post(http, SERIES, headers)
    assert post(http, SERIES, headers).json() == first.json()
    other = post(http, SERIES | {"series_uid": "1.2.840.99.2"}, headers)
    assert other.status_code == 409


def test_deliveries_are_listed_and_replayed(http: httpx.Client, lifecycle: JobLifecycle, redis: Redis) -> None:
    deliveries = DeliveryStore(redis)
    job_id = post(http, SERIES | {"callback_url": CALLBACK, "send_to": ""}).json()["id"]
    lifecycle.cancel(job_id)
    (pending,) = http.get("/deliveries", params={"state": "pending"}).json()["deliveries"]
    assert (pending["id"], pending["job_id"], pending["kind"]) == (f"{job_id}-0", job_id, "webhook")
    claimed = deliveries.claim("outbox:due:webhook:hooks.example.org", "courier", 60)
    assert claimed is not None
    deliveries.bury(claimed, "answered 410 (Gone)")
    assert http.get("/deliveries", params={"state": "pending"}).json()["deliveries"] == []
    (dead,) = http.get("/deliveries").json()["deliveries"]
    assert (dead["state"], dead["attempts"], dead["last_error"]) == ("dead", 1, "answered 410 (Gone)")
    assert CALLBACK not in http.get("/deliveries").text
    replayed = http.post(f"/deliveries/{dead['id']}/replay")
    assert (replayed.status_code, replayed.json()["state"]) == (202, "pending")
    assert http.get("/deliveries").json()["deliveries"] == []
    metrics = http.get("/metrics").text
    assert 'unet_factory_deliveries_pending{kind="webhook"} 1.0' in metrics
    http.delete(f"/segmentations/{job_id}")
    assert http.post(f"/deliveries/{dead['id']}/replay").status_code == 404
    for bad in ("delivered", "x"):
        assert http.get("/deliveries", params={"state": bad}).status_code == 400


def post(http: httpx.Client, fields: dict[str, str], headers: dict[str, str] | None = None) -> httpx.Response:
    """As a form of texts alone."""
    return http.post("/segmentations", files={name: (None, text) for name, text in fields.items()}, headers=headers)
