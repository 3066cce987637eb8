"""Segmentation object and report over HTTP."""

import time
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset, dcmread
from redis import Redis

from tests.fixtures.dicom_files import PATIENT, series, zipped
from tests.fixtures.volume_files import affine_ras, phantom, write_nifti
from unet_factory.domain.jobs import Job, JobState, PolicyReport, SegmentationRequest, new_job_id
from unet_factory.domain.spacing import OutsidePolicy
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.store import JobStore

ANSWERS_AT_ONCE = {"Prefer": "wait=60"}
PROBLEM = "urn:unet-factory:problem:"


@pytest.fixture
def jobs(redis: Redis) -> JobStore:
    return JobStore(redis)


@pytest.fixture
def scan(tmp_path: Path) -> bytes:
    return zipped(series(phantom((9, 11, 13)), affine_ras()), tmp_path / "a.zip").read_bytes()


def post(http: httpx.Client, scan: bytes, **fields: str) -> httpx.Response:
    return http.post("/segmentations", files={"file": ("x", scan)}, data=fields, headers=ANSWERS_AT_ONCE)


def test_segmentation_and_report_are_fetched_whole_in_part_and_once(
    http: httpx.Client, worker: None, scan: bytes
) -> None:
    answer = post(http, scan)
    assert answer.json()["state"] == "succeeded", answer.text
    for path, modality in (("seg", "SEG"), ("report", "SR")):
        url = f"{answer.headers['Location']}/{path}"
        whole = http.get(url)
        assert (whole.status_code, whole.headers["Content-Type"]) == (200, "application/dicom")
        assert "no-store" in whole.headers["Cache-Control"]
        assert PATIENT not in str(whole.headers)
        assert dcmread(BytesIO(whole.content)).Modality == modality
        part = http.get(url, headers={"Range": "bytes=128-131"})
        assert (part.status_code, part.content) == (206, b"DICM")
        head = http.head(url)
        assert (head.status_code, head.content) == (200, b"")
        same = ("content-type", "content-length", "etag", "cache-control")
        assert [head.headers[name] for name in same] == [whole.headers[name] for name in same]
        assert http.get(url, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
        assert http.get(url, headers={"Range": "bytes=99999999-"}).status_code == 416
    assert http.delete(answer.headers["Location"]).status_code == 204
    assert [http.get(f"{answer.headers['Location']}/{path}").status_code for path in ("seg", "report")] == [410, 410]


@pytest.mark.parametrize(("fields", "kind"), [({}, "BINARY"), ({"seg_type": "labelmap"}, "LABELMAP")])
def test_the_type_of_segmentation_is_the_callers(
    http: httpx.Client, worker: None, scan: bytes, fields: dict[str, str], kind: str
) -> None:
    answer = post(http, scan, **fields)
    seg = dcmread(BytesIO(http.get(f"{answer.headers['Location']}/seg").content))
    assert seg.SegmentationType == kind


def test_a_multipart_body_names_the_type_in_the_query(http: httpx.Client, jobs: JobStore) -> None:
    body = b"".join(_parts(series(phantom((9, 11, 13)), affine_ras()))) + b"--x--\r\n"
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}
    answer = http.post("/segmentations", content=body, headers=headers, params={"seg_type": "labelmap"})
    assert answer.status_code == 202, answer.text
    assert jobs.request(answer.json()["id"]).seg_type == "labelmap"


def _parts(slices: Iterable[Dataset]) -> Iterable[bytes]:
    for one in slices:
        with BytesIO() as file:
            one.save_as(file, enforce_file_format=True)
            yield b"--x\r\nContent-Type: application/dicom\r\n\r\n" + file.getvalue() + b"\r\n"


def test_a_scan_that_was_no_dicom_has_none(http: httpx.Client, tmp_path: Path) -> None:
    content = write_nifti(tmp_path / "scan.nii.gz", phantom()).read_bytes()
    answer = http.post("/segmentations", files={"file": ("x", content)})
    for path in ("seg", "report"):
        refused = http.get(f"{answer.headers['Location']}/{path}")
        assert (refused.status_code, refused.json()["type"]) == (409, f"{PROBLEM}no-dicom-results")
    refused = http.post("/segmentations", files={"file": ("x", content)}, data={"seg_type": "binary"})
    assert (refused.status_code, refused.json()["type"]) == (422, f"{PROBLEM}not-supported")


def test_an_unknown_type_is_refused(http: httpx.Client, scan: bytes) -> None:
    answer = post(http, scan, seg_type="fractional")
    assert (answer.status_code, answer.json()["allowed"]) == (400, ["binary", "labelmap"])


def test_there_is_none_before_the_end_and_no_segmentation_of_nothing(
    http: httpx.Client, jobs: JobStore, lifecycle: JobLifecycle
) -> None:
    job_id = _running(jobs, lifecycle)
    for path in ("seg", "report"):
        answer = http.get(f"/segmentations/{job_id}/{path}")
        assert (answer.status_code, answer.json()["type"]) == (409, f"{PROBLEM}job-not-finished")
    lifecycle.finish(job_id, "owner", JobState.SUCCEEDED, volumes_ml={"anterior": 0.0, "posterior": 0.0})
    answer = http.get(f"/segmentations/{job_id}/seg")
    assert (answer.status_code, answer.json()["type"]) == (404, f"{PROBLEM}nothing-segmented")
    assert "anterior, posterior" in answer.json()["detail"]
    assert http.get(f"/segmentations/{job_id}/report").status_code == 410, "its file was never there"


def _running(jobs: JobStore, lifecycle: JobLifecycle) -> str:
    now = time.time()
    job = Job(
        id=new_job_id(), model="tiny", policy=PolicyReport(outside=OutsidePolicy.CLAMP), created=now, expires=now + 600
    )
    jobs.create(job, SegmentationRequest(model="tiny", checkpoint_digest="0" * 64, input_name="input.zip"))
    assert lifecycle.claim(job.id, "owner", 60)
    return job.id


def test_the_routes_are_documented(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    for path in ("seg", "report"):
        answers = paths[f"/segmentations/{{job_id}}/{path}"]["get"]["responses"]
        assert set(answers["200"]["content"]) == {"application/dicom"}
        assert {"206", "304", "404", "409", "410"} <= answers.keys()
