"""A segmentation's life over HTTP: accepted, followed, fetched, purged; and the same request sent again."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest
from httpx_sse import connect_sse
from PIL import Image
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import affine_ras, phantom, write_nifti, write_volume
from tests.service.conftest import Gateway, RunGateway, Snapshot, poll
from unet_factory.domain.errors import DeadlineExceeded
from unet_factory.domain.jobs import SEGMENT_QUEUE, Job, JobState
from unet_factory.domain.problems import problem_of
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore

ANSWERS_AT_ONCE = {"Prefer": "wait=20"}

Upload = dict[str, tuple[str, bytes]]


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_nifti(tmp_path / "scan.nii.gz")


@pytest.fixture
def upload(scan: Path) -> Upload:
    return {"file": ("scan.nii.gz", scan.read_bytes())}


@pytest.fixture
def jobs(redis: Redis) -> JobStore:
    return JobStore(redis)


@pytest.fixture
def owned(http: httpx.Client, upload: Upload, jobs: JobStore, lifecycle: JobLifecycle) -> str:
    """The id of a job that a worker called «owner» runs: the test says what it does."""
    job_id: str = http.post("/segmentations", files=upload).json()["id"]
    assert lifecycle.claim(job_id, "owner", 60)
    return job_id


def test_an_accepted_scan_is_a_queued_job(
    http: httpx.Client, upload: Upload, jobs: JobStore, redis: Redis, settings: FactorySettings, scan: Path
) -> None:
    answer = http.post("/segmentations", files=upload, data={"working_spacing": "2,2,4", "output": "nrrd"})
    assert answer.status_code == 202
    job = Job.model_validate(answer.json())
    assert answer.headers["Location"] == f"/segmentations/{job.id}"
    assert http.get(answer.headers["Location"]).json() == answer.json()
    assert job.state is JobState.QUEUED
    assert job.spacing.native == (0.75, 1.5, 3.25)
    assert job.spacing.requested == (2, 2, 4)
    assert job.policy.out_of_range, "4 mm is outside the trained range, and the policy is clamp"
    assert job.expires - job.created == pytest.approx(settings.retention_s)
    assert redis.llen(SEGMENT_QUEUE) == 1
    request = jobs.request(job.id)
    with BlobStore(settings.blob_url).local(job.id, request.input_name) as stored:
        assert stored.read_bytes() == scan.read_bytes()
    assert "scan" not in request.model_dump_json(), "no file names: they tend to name the patient"


@pytest.mark.parametrize(
    ("name", "stored"),
    [("a.nii", "input.nii"), ("a.nii.gz", "input.nii.gz"), ("a.mha", "input.mha"), ("a.nrrd", "input.nrrd")],
)
def test_every_format_is_known_by_its_content(
    http: httpx.Client, jobs: JobStore, tmp_path: Path, name: str, stored: str
) -> None:
    path = write_volume(tmp_path / name, phantom(), affine_ras())
    answer = http.post("/segmentations", files={"file": ("anything", path.read_bytes())})
    assert jobs.request(answer.json()["id"]).input_name == stored


def test_a_worker_s_result_is_fetched_on_the_scan_s_own_grid(http: httpx.Client, worker: None, tmp_path: Path) -> None:
    scan = write_nifti(tmp_path / "scan.nii.gz", phantom((9, 11, 13)))
    answer = http.post("/segmentations", files={"file": ("x", scan.read_bytes())}, headers=ANSWERS_AT_ONCE)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Preference-Applied"] == "wait=20"
    job = Job.model_validate(answer.json())
    assert (job.state, job.progress, job.error) == (JobState.SUCCEEDED, 1.0, None)
    fetched = http.get(f"{answer.headers['Location']}/labelmap")
    head = http.head(f"{answer.headers['Location']}/labelmap")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == fetched.headers["Content-Length"]
    assert fetched.headers["Content-Type"] == "application/gzip"
    assert "no-store" in fetched.headers["Cache-Control"]
    (tmp_path / "labels.nii.gz").write_bytes(fetched.content)
    labels: Any = nib.load(tmp_path / "labels.nii.gz")
    assert labels.shape == (9, 11, 13)
    assert np.array_equal(labels.affine, nib.load(scan).affine)  # type: ignore[attr-defined]
    part = http.get(f"{answer.headers['Location']}/labelmap", headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, fetched.content[5:10])
    again = http.get(f"{answer.headers['Location']}/labelmap", headers={"If-None-Match": fetched.headers["ETag"]})
    assert again.status_code == 304
    preview = http.get(f"{answer.headers['Location']}/preview.png")
    assert (preview.status_code, preview.json()["type"]) == (404, "urn:unet-factory:problem:no-preview")
    beyond = http.get(f"{answer.headers['Location']}/labelmap", headers={"Range": "bytes=99999999-"})
    assert (beyond.status_code, beyond.headers["Content-Type"]) == (416, "application/problem+json")


def test_a_preview_is_drawn_where_it_is_asked_for(http: httpx.Client, worker: None, upload: Upload) -> None:
    refused = http.post("/segmentations", files=upload, data={"preview": "maybe"})
    assert (refused.status_code, refused.json()["allowed"]) == (400, ["true", "false"])
    answer = http.post("/segmentations", files=upload, data={"preview": "true"}, headers=ANSWERS_AT_ONCE)
    assert answer.json()["timings_s"]["preview"] > 0
    preview = http.get(f"{answer.headers['Location']}/preview.png")
    assert (preview.status_code, preview.headers["Content-Type"]) == (200, "image/png")
    assert Image.open(BytesIO(preview.content)).format == "PNG"
    http.delete(answer.headers["Location"])
    assert http.get(f"{answer.headers['Location']}/preview.png").status_code == 410


def test_who_waits_in_vain_gets_the_job_as_it_is(http: httpx.Client, upload: Upload) -> None:
    answer = http.post("/segmentations", files=upload, headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    assert answer.elapsed.total_seconds() >= 1
    assert answer.json()["state"] == "queued"


def test_events_tell_every_change_until_the_end(
    gateway: Gateway, owned: str, jobs: JobStore, lifecycle: JobLifecycle, only_bells: None
) -> None:
    with httpx.Client(base_url=gateway.url, timeout=10) as http, _following(http, owned) as seen:
        assert next(seen)["state"] == "running"
        lifecycle.update(owned, "owner", progress=0.25)
        assert next(seen)["progress"] == 0.25
        lifecycle.update(owned, "owner", timings_s={"fetch": 0.5})
        assert next(seen)["timings_s"] == {"fetch": 0.5}
        lifecycle.finish(owned, "owner", JobState.SUCCEEDED, progress=1.0)
        assert next(seen)["state"] == "succeeded"
        assert list(seen) == []


def test_events_of_a_finished_job_are_its_last_state(
    http: httpx.Client, owned: str, jobs: JobStore, lifecycle: JobLifecycle
) -> None:
    lifecycle.finish(owned, "owner", JobState.FAILED, error=problem_of(DeadlineExceeded("too long")))
    with _following(http, owned) as seen:
        assert [job["state"] for job in seen] == ["failed"]


def test_events_end_when_the_job_is_purged(gateway: Gateway, owned: str, only_bells: None) -> None:
    with httpx.Client(base_url=gateway.url, timeout=10) as http, _following(http, owned) as seen:
        assert next(seen)["state"] == "running"
        assert httpx.delete(f"{gateway.url}/segmentations/{owned}").status_code == 204
        assert {job["state"] for job in seen} <= {"cancelled"}


def test_a_client_that_goes_away_leaves_no_waiter(gateway: Gateway, owned: str) -> None:
    waiting = gateway.server.app.state.gateway.wakeups.waiting
    with httpx.Client(base_url=gateway.url, timeout=10) as http, _following(http, owned) as seen:
        next(seen)
        assert waiting() == 1
    poll(lambda: waiting() == 0)


def test_streams_and_waiters_end_when_the_server_stops(
    run_gateway: RunGateway, settings: FactorySettings, upload: Upload
) -> None:
    """Long before their own time, and in order: the stream is complete, the waiter is answered."""
    with run_gateway(settings) as gateway, ThreadPoolExecutor(1) as other:
        posted = gateway.http.post("/segmentations", files=upload)
        path = posted.headers["Location"]
        waiter = other.submit(
            httpx.post, f"{gateway.url}/segmentations", files=upload, headers={"Prefer": "wait=300"}, timeout=20
        )
        with connect_sse(gateway.http, "GET", f"{path}/events") as source:
            events = source.iter_sse()
            next(events)
            poll(lambda: gateway.server.app.state.gateway.wakeups.waiting() == 2)
            gateway.server.should_exit = True
            assert list(events) == []
        assert waiter.result(timeout=5).status_code == 202
        gateway.thread.join(5)
        assert not gateway.thread.is_alive()


def test_there_is_no_label_map_before_the_end(http: httpx.Client, owned: str) -> None:
    answer = http.get(f"/segmentations/{owned}/labelmap")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:unet-factory:problem:job-not-finished")
    assert answer.json()["state"] == "running"


def test_a_failed_job_answers_what_it_failed_of(
    http: httpx.Client, owned: str, jobs: JobStore, lifecycle: JobLifecycle
) -> None:
    lifecycle.finish(owned, "owner", JobState.FAILED, error=problem_of(DeadlineExceeded("it took 9 s", limit_s=8)))
    answer = http.get(f"/segmentations/{owned}/labelmap")
    assert (answer.status_code, answer.json()["type"]) == (504, "urn:unet-factory:problem:deadline-exceeded")
    assert answer.json()["limit_s"] == 8
    assert http.get(f"/segmentations/{owned}").json()["error"]["detail"] == "it took 9 s"


def test_a_cancelled_job_has_no_label_map(
    http: httpx.Client, owned: str, jobs: JobStore, lifecycle: JobLifecycle
) -> None:
    lifecycle.cancel(owned)
    answer = http.get(f"/segmentations/{owned}/labelmap")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:unet-factory:problem:job-cancelled")


@pytest.mark.parametrize("end", [None, JobState.SUCCEEDED])
def test_delete_purges_at_once(
    http: httpx.Client, owned: str, jobs: JobStore, lifecycle: JobLifecycle, snapshot: Snapshot, end: JobState | None
) -> None:
    """Whatever state it is in; who ran it learns that it is no longer theirs."""
    if end is not None:
        lifecycle.finish(owned, "owner", end)
    assert http.delete(f"/segmentations/{owned}").status_code == 204
    files, keys = snapshot()
    assert not [file for file in files if owned in file]
    assert [key for key in keys if owned in key] == [f"job:{owned}:gone"]
    assert not lifecycle.update(owned, "owner", progress=0.5)
    assert not lifecycle.claim(owned, "another", 60)
    for path in ("", "/events", "/labelmap"):
        answer = http.get(f"/segmentations/{owned}{path}")
        assert (answer.status_code, answer.json()["type"]) == (410, "urn:unet-factory:problem:job-expired")
    assert http.delete(f"/segmentations/{owned}").status_code == 410


@pytest.mark.parametrize("path", ["", "/events", "/labelmap", "/preview.png"])
@pytest.mark.parametrize("job_id", ["0" * 32, "{owned}:lease", "{owned}x", "..%00", "%00", "{owned}%0A", "x" * 3000])
def test_an_unknown_job_is_404(http: httpx.Client, owned: str, path: str, job_id: str) -> None:
    """Also where the "id" would be the name of something else in the stores."""
    answer = http.get(f"/segmentations/{job_id.format(owned=owned)}{path}")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:unet-factory:problem:job-unknown")


def test_the_same_request_sent_again_is_the_same_job(http: httpx.Client, upload: Upload, snapshot: Snapshot) -> None:
    headers = {"Idempotency-Key": "one"}
    first = http.post("/segmentations", files=upload, data={"spacing": "1,1,1"}, headers=headers)
    before = snapshot()
    again = http.post("/segmentations", files=upload, data={"spacing": "1.0,1,1"}, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    assert snapshot() == before
    assert http.post("/segmentations", files=upload, headers={"Idempotency-Key": "two"}).json() != first.json()


def test_another_request_under_the_same_key_is_refused(
    http: httpx.Client, upload: Upload, snapshot: Snapshot, tmp_path: Path
) -> None:
    headers = {"Idempotency-Key": "one"}
    http.post("/segmentations", files=upload, headers=headers)
    before = snapshot()
    other_scan = {"file": ("scan.nii.gz", write_nifti(tmp_path / "b.nii.gz", phantom() + 1).read_bytes())}
    for arguments in ({"files": other_scan}, {"files": upload, "data": {"output": "nrrd"}}):
        answer = http.post("/segmentations", headers=headers, **arguments)
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:unet-factory:problem:idempotency-conflict")
    assert snapshot() == before


def test_the_same_request_sent_many_times_at_once_is_one_job(
    gateway: Gateway, upload: Upload, redis: Redis, snapshot: Snapshot
) -> None:
    def post(_: int) -> httpx.Response:
        return httpx.post(f"{gateway.url}/segmentations", files=upload, headers={"Idempotency-Key": "k"}, timeout=20)

    with ThreadPoolExecutor(8) as askers:
        answers = list(askers.map(post, range(8)))
    assert {answer.status_code for answer in answers} == {202}
    (job_id,) = {answer.json()["id"] for answer in answers}
    assert redis.llen(SEGMENT_QUEUE) == 1
    assert [file for file in snapshot()[0] if file.count("/") == 2] == [f"jobs/{job_id}/input.nii.gz"]


def test_a_key_whose_request_died_is_free_again(
    http: httpx.Client, upload: Upload, jobs: JobStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that died between reserving the key and recording the job must not block the caller's retry."""
    monkeypatch.setattr("unet_factory_service.segmentations.idempotency.RECORDED_WITHIN_S", 0.2)
    first = http.post("/segmentations", files=upload, headers={"Idempotency-Key": "k"}).json()["id"]
    redis.delete(f"job:{first}")
    again = http.post("/segmentations", files=upload, headers={"Idempotency-Key": "k"})
    assert again.status_code == 202
    assert again.json()["id"] != first


def test_a_job_whose_recording_nobody_confirmed_keeps_its_scan_and_its_key(
    http: httpx.Client, upload: Upload, jobs: JobStore, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection to the store breaks after it has recorded the job, and before it says so."""
    create, key = JobStore.create, {"Idempotency-Key": "k"}

    def create_and_lose_the_answer(*arguments: Any, **named: Any) -> bool:
        create(*arguments, **named)
        raise RedisConnectionError

    with monkeypatch.context() as broken:
        broken.setattr(JobStore, "create", create_and_lose_the_answer)
        answer = http.post("/segmentations", files=upload, headers=key)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:unet-factory:problem:not-ready")
    again = http.post("/segmentations", files=upload, headers=key)
    assert again.status_code == 202
    assert jobs.active_ids() == [again.json()["id"]]
    assert f"jobs/{again.json()['id']}/input.nii.gz" in snapshot()[0]


def test_a_full_queue_is_429_and_takes_nothing(
    run_gateway: RunGateway, settings: FactorySettings, upload: Upload, snapshot: Snapshot
) -> None:
    with run_gateway(settings.model_copy(update={"max_queued_jobs": 1})) as gateway:
        known = {"Idempotency-Key": "known"}
        accepted = gateway.http.post("/segmentations", files=upload, headers=known)
        before = snapshot()
        for headers in ({}, {"Idempotency-Key": "new"}):
            answer = gateway.http.post("/segmentations", files=upload, headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (429, "urn:unet-factory:problem:queue-full")
            assert int(answer.headers["Retry-After"]) > 0
        assert snapshot() == before
        assert gateway.http.post("/segmentations", files=upload, headers=known).json() == accepted.json()
        gateway.http.delete(accepted.headers["Location"])
        assert gateway.http.post("/segmentations", files=upload).status_code == 202


@contextmanager
def _following(http: httpx.Client, job_id: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The jobs that a job's events carry."""
    with connect_sse(http, "GET", f"/segmentations/{job_id}/events") as source:
        assert source.response.status_code == 200
        yield (json.loads(event.data) for event in source.iter_sse() if event.event == "job")
