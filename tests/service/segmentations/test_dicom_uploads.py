"""DICOM over HTTP: as a zip archive, as one bare file, as the parts of a multipart/related body."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.fixtures.dicom_files import PATIENT, as_bytes, enhanced, saved, series, zipped
from tests.fixtures.project import DICOM_SERIES
from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import affine_ras, phantom, write_nifti
from tests.service.conftest import MAX_UPLOAD_BYTES, Gateway, Snapshot
from unet_factory.domain.errors import NotAVolume
from unet_factory.domain.jobs import Job, JobState
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore
from unet_factory.volume import read_header, read_volume
from unet_factory_client import FactoryClient, SegmentationParameters

RELATED = 'multipart/related; type="application/dicom"; boundary=x'
ANSWERS_AT_ONCE = {"Prefer": "wait=20"}


def body(parts: Iterable[bytes]) -> bytes:
    head = b"--x\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + part + b"\r\n" for part in parts) + b"--x--\r\n"


def post_parts(http: httpx.Client, parts: Iterable[bytes], headers: dict[str, str] | None = None, **query: str) -> Any:
    headers = {"Content-Type": RELATED} | (headers or {})
    return http.post("/segmentations", content=body(parts), headers=headers, params=query)


def test_a_real_series_is_segmented_alike_however_it_comes(http: httpx.Client, worker: None, tmp_path: Path) -> None:
    files = [path.read_bytes() for path in sorted(DICOM_SERIES.iterdir())]
    archive = zipped([], tmp_path / "a.zip", {str(index): file for index, file in enumerate(files)})
    answers = [
        http.post("/segmentations", files={"file": ("x", archive.read_bytes())}, headers=ANSWERS_AT_ONCE),
        post_parts(http, files, ANSWERS_AT_ONCE),
        post_parts(http, reversed(files), ANSWERS_AT_ONCE),
    ]
    labels = []
    for answer in answers:
        job = Job.model_validate(answer.json())
        assert (answer.status_code, job.state, job.spacing.native) == (200, JobState.SUCCEEDED, (1, 1, 1))
        labels.append(http.get(f"/segmentations/{job.id}/labelmap").content)
    assert labels[0] == labels[1] == labels[2]
    (tmp_path / "labels.nii.gz").write_bytes(labels[0])
    image: Any = nib.load(tmp_path / "labels.nii.gz")
    header = read_header(archive)
    assert image.shape == header.shape == (35, 51, 32)
    np.testing.assert_array_equal(image.affine, header.affine)


def test_the_client_sends_a_folder(gateway: Gateway, worker: None, tmp_path: Path) -> None:
    folder = tmp_path / PATIENT
    saved(series(phantom((9, 8, 7)), affine_ras(10)), folder / "deeper")
    (folder / "README").write_text("no DICOM")
    with FactoryClient(gateway.url) as client:
        job = client.segment(folder, tmp_path / "labels.nii.gz", SegmentationParameters(working_spacing_mm=(1, 1.5, 3)))
        assert job.state is JobState.SUCCEEDED
        assert read_header(tmp_path / "labels.nii.gz").shape == (9, 8, 7)
        (tmp_path / "empty").mkdir()
        with pytest.raises(NotAVolume, match="no DICOM file"):
            client.submit(tmp_path / "empty")


def test_the_query_of_a_multipart_body_counts(http: httpx.Client) -> None:
    parts = [as_bytes(one) for one in series(phantom(), affine_ras())]
    answer = post_parts(http, parts, spacing="1,1,1", working_spacing="2,2,2", outside="extrapolate", output="nrrd")
    assert answer.status_code == 202, answer.text
    job = Job.model_validate(answer.json())
    assert (job.spacing.native, job.spacing.requested) == ((1, 1, 1), (2, 2, 2))
    assert job.policy.outside == "extrapolate"


def test_what_is_stored_is_one_archive(
    http: httpx.Client, settings: FactorySettings, redis: Any, tmp_path: Path
) -> None:
    """Also of a bare file, and of one series out of several; what is left aside is noted from the start."""
    slices = series(phantom(), affine_ras())
    other = series(phantom(), affine_ras(20))
    uid = str(slices[0].SeriesInstanceUID)
    uploads: list[tuple[bytes, dict[str, str], tuple[str, ...]]] = [
        (zipped(slices, tmp_path / "a.zip", {"README": b"hello"}).read_bytes(), {}, ("ignored 1 file other than",)),
        (as_bytes(enhanced(phantom(), affine_ras())), {}, ()),
        (zipped([*other, *slices], tmp_path / "b.zip").read_bytes(), {"series_uid": uid}, ()),
    ]
    for content, fields, notes in uploads:
        answer = http.post("/segmentations", files={"file": ("x", content)}, data=fields)
        assert answer.status_code == 202, answer.text
        job = Job.model_validate(answer.json())
        assert [note.startswith(start) for note, start in zip(job.notes, notes, strict=True)] == [True] * len(notes)
        request = JobStore(redis).request(job.id)
        assert uid not in request.model_dump_json() + job.model_dump_json()
        with BlobStore(settings.blob_url).local(job.id, "input.zip") as stored:
            np.testing.assert_array_equal(read_volume(stored).data, phantom())


def test_another_choice_under_the_same_key_is_a_conflict(http: httpx.Client, tmp_path: Path) -> None:
    one, other = series(phantom(), affine_ras()), series(phantom(), affine_ras(20))
    content = zipped([*one, *other], tmp_path / "a.zip").read_bytes()
    answers = [
        http.post(
            "/segmentations",
            files={"file": ("x", content)},
            data={"series_uid": str(chosen[0].SeriesInstanceUID)},
            headers={"Idempotency-Key": "k"},
        )
        for chosen in (one, one, other)
    ]
    assert [answer.status_code for answer in answers] == [202, 202, 409]
    assert answers[0].json()["id"] == answers[1].json()["id"]


def two_series() -> list[Dataset]:
    return [*series(phantom(), affine_ras()), *series(phantom(), affine_ras())]


@pytest.mark.parametrize(
    ("datasets", "fields", "status", "slug"),
    [
        (two_series(), {}, 422, "series-mixed"),
        (two_series(), {"series_uid": "1.2.3"}, 422, "series-mixed"),
        (two_series(), {"series_uid": PATIENT}, 400, "malformed-request"),
        (series(phantom(), affine_ras())[::3], {}, 202, ""),
        (series(phantom(), affine_ras())[:1], {}, 422, "spacing-invalid"),
        ([one for k, one in enumerate(series(phantom(), affine_ras())) if k != 2], {}, 422, "slices-missing"),
        ([], {}, 415, "not-a-volume"),
    ],
)
def test_a_bad_series_is_refused_and_leaves_nothing(
    http: httpx.Client,
    snapshot: Snapshot,
    tmp_path: Path,
    datasets: list[Dataset],
    fields: dict[str, str],
    status: int,
    slug: str,
) -> None:
    before = snapshot()
    content = zipped(datasets, tmp_path / "a.zip").read_bytes()
    answer = http.post("/segmentations", files={"file": ("x", content)}, data=fields)
    assert answer.status_code == status, answer.text
    if slug:
        assert answer.json()["type"] == f"urn:unet-factory:problem:{slug}"
        assert PATIENT not in answer.text
        assert snapshot() == before


def test_a_series_uid_needs_dicom(http: httpx.Client, tmp_path: Path) -> None:
    scan = write_nifti(tmp_path / "scan.nii").read_bytes()
    answer = http.post("/segmentations", files={"file": ("x", scan)}, data={"series_uid": "1.2.3"})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:unet-factory:problem:malformed-request")


@pytest.mark.parametrize(
    ("content_type", "content", "query", "status"),
    [
        (RELATED, b"", "", 400),
        (RELATED, b"nonsense", "", 400),
        (RELATED, b"--x--\r\n", "", 400),
        (RELATED, body([b"abc"])[:-6], "", 400),
        (RELATED, body([b"abc"]), "", 415),
        (RELATED, body([b"abc"]), "?series_uid=1.2.3", 400),
        (RELATED, body([b"abc"]), "?output=nrrd&output=nrrd", 400),
        ('multipart/related; type="application/dicom"', body([b"abc"]), "", 400),
        ('multipart/related; type="application/dicom+json"; boundary=x', body([b"abc"]), "", 415),
        (RELATED, body([bytes(MAX_UPLOAD_BYTES // 2 + 1)] * 2), "", 413),
        (RELATED, body([b"a"] * 20_001), "", 400),
    ],
)
def test_a_bad_body_is_refused_and_leaves_nothing(
    http: httpx.Client, snapshot: Snapshot, content_type: str, content: bytes, query: str, status: int
) -> None:
    before = snapshot()
    answer = http.post(f"/segmentations{query}", content=content, headers={"Content-Type": content_type})
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "1.2.3" not in answer.text
    assert snapshot() == before


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_series_that_no_result_can_refer_to_is_refused_at_once(
    http: httpx.Client, snapshot: Snapshot, tmp_path: Path, missing: str
) -> None:
    slices = series(phantom((9, 8, 7)), affine_ras(10))
    for one in slices:
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        delattr(one, missing)
    before = snapshot()
    archive = zipped(slices, tmp_path / "a.zip").read_bytes()
    answer = http.post("/segmentations", files={"file": ("x", archive)})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:unet-factory:problem:dicom-incomplete")
    assert answer.json()["missing"] == [missing]
    assert snapshot() == before
