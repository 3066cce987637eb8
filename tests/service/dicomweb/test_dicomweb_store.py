"""Series by STOW-RS: every instance is answered for, a whole series becomes one job, whatever happens in between."""

import shutil
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import pytest
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, generate_uid
from redis import Redis

from tests.fixtures.dicom_files import as_bytes, mr_series, saved
from tests.fixtures.settings import FactorySettings
from tests.service.conftest import Gateway, RunGateway, poll
from unet_factory.domain.jobs import Job, JobState
from unet_factory_service.dependencies import GatewayContext

QUIET_S = 0.6
REFERENCED, FAILED, OTHER, REASON = "00081199", "00081198", "0008119A", "00081197"


@pytest.fixture
def quick(settings: FactorySettings) -> FactorySettings:
    shutil.rmtree(received_in(settings), ignore_errors=True)
    return settings.model_copy(update={"series_quiet_s": QUIET_S})


@pytest.fixture
def stow(quick: FactorySettings, run_gateway: RunGateway) -> Iterator[Gateway]:
    with run_gateway(quick) as gateway:
        yield gateway


def test_a_whole_series_becomes_one_job_and_sending_it_again_makes_no_other(
    stow: Gateway, redis: Redis, worker: None
) -> None:
    series = mr_series()
    answer = post(stow, series[:2])
    assert (answer["status"], reasons(answer)) == (200, [])
    assert uids(answer) == [one.SOPInstanceUID for one in series[:2]]
    assert post(stow, series[1:])["status"] == 200
    (job,) = await_jobs(stow, redis, 1)
    assert (job.model, job.spacing.native) == ("tiny", (1.0, 1.0, 2.0))
    assert ended(stow, job).state is JobState.SUCCEEDED
    assert post(stow, series)["status"] == 200
    poll(lambda: not due(redis))
    assert jobs_of(stow, redis) == [job.id]


def test_late_slices_make_a_job_of_the_whole_series(stow: Gateway, redis: Redis, worker: None) -> None:
    series = mr_series(slices=6)
    post(stow, series[:4])
    (first,) = await_jobs(stow, redis, 1)
    post(stow, series[4:])
    jobs = await_jobs(stow, redis, 2)
    assert [ended(stow, job).state for job in jobs if job.id != first.id] == [JobState.SUCCEEDED]
    (second,) = [job for job in jobs if job.id != first.id]
    with context_of(stow).blobs.local(second.id, "labelmap.nii.gz") as path:
        assert nibabel.Nifti1Image.from_filename(path).shape == (16, 16, 6)
    for job in (second, first):
        assert stow.http.delete(f"/segmentations/{job.id}").status_code == 204
    assert set(redis.keys("received:*")) <= {b"received:purging"}


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom, on bytes that are no DICOM
def test_one_bad_instance_costs_no_other(stow: Gateway) -> None:
    series = mr_series()
    del series[1].StudyInstanceUID
    answer = post(stow, series, extra=[b"no DICOM at all"])
    assert answer["status"] == 202
    assert uids(answer) == [series[index].SOPInstanceUID for index in (0, 2, 3)]
    assert answer[FAILED]["Value"][0]["00081155"]["Value"] == [series[1].SOPInstanceUID]
    assert reasons(answer) == [0xA900]
    assert answer[OTHER]["Value"][0][REASON]["Value"] == [0xC000]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_and_inflating_instances_cost_no_other(stow: Gateway) -> None:
    """All ways in read objects by one bounded reader; here a bomb is a few hundred times its size."""
    series = mr_series()
    series[0].file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    deflated = as_bytes(series[0])
    bomb = Dataset()
    bomb.file_meta = FileMetaDataset()
    bomb.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    bomb.SOPClassUID, bomb.SOPInstanceUID = series[0].SOPClassUID, generate_uid()
    bomb.StudyInstanceUID, bomb.SeriesInstanceUID = series[0].StudyInstanceUID, series[0].SeriesInstanceUID
    bomb.Rows = bomb.Columns = bomb.BitsAllocated = 16
    bomb.SamplesPerPixel, bomb.PixelRepresentation = 1, 0
    bomb.PixelData = bytes(600 * 2**20)
    answer = post(stow, series[1:], extra=[deflated[: len(deflated) // 2], as_bytes(bomb)])
    assert answer["status"] == 202
    assert uids(answer) == [one.SOPInstanceUID for one in series[1:]]
    assert [item[REASON]["Value"] for item in answer[OTHER]["Value"]] == [[0xC000], [0xC000]]


def test_uids_are_read_as_on_every_other_way_in(stow: Gateway) -> None:
    """Components that begin with 0 are taken unchanged (note in PS3.5 section 9.1), several values are not."""
    series = mr_series(slices=2, StudyInstanceUID="1.2.03.4", SeriesInstanceUID="1.2.03.04")
    assert post(stow, series)["status"] == 200
    series[0].SeriesInstanceUID = ["1.2", "1.3"]
    assert post(stow, series)["status"] == 202


def test_a_study_in_the_path_takes_only_its_own(stow: Gateway) -> None:
    series, other = mr_series(slices=1), mr_series(slices=1)
    path = f"/dicomweb/studies/{series[0].StudyInstanceUID}"
    assert post(stow, series, path=path)["status"] == 200
    mixed = post(stow, series + other, path=path)
    assert (mixed["status"], reasons(mixed)) == (202, [0xA900])
    assert post(stow, other, path=path)["status"] == 409


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json"}, 415),
        ({"Content-Type": 'multipart/related; type="application/dicom+json"; boundary=b'}, 415),
        ({"Content-Type": 'multipart/related; type="application/dicom"'}, 400),
        ({"Content-Type": 'multipart/related; type="application/dicom"; boundary=other'}, 400),
        ({"Content-Type": 'multipart/related; type="application/dicom"; boundary=b', "Accept": "text/html"}, 406),
        ({"Content-Type": 'multipart/related; type="application/dicom"; boundary=b', "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "application/dicom", "Content-Encoding": "gzip"}, 415),
    ],
)
def test_what_is_no_stow_request_is_refused(stow: Gateway, headers: dict[str, str], status: int) -> None:
    answer = stow.http.post("/dicomweb/studies", content=body(mr_series(slices=1)), headers=headers)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_one_instance_may_come_without_a_multipart_around_it(stow: Gateway, quick: FactorySettings) -> None:
    (one,) = mr_series(slices=1)
    path, headers = f"/dicomweb/studies/{one.StudyInstanceUID}%00", {"Content-Type": "application/dicom; charset=x"}
    answer = stow.http.post(path, content=encoded(one), headers=headers)
    assert (answer.status_code, uids(answer.json())) == (200, [one.SOPInstanceUID])
    assert stow.http.post(path, content=b"", headers=headers).status_code == 409
    too_much = bytes(quick.max_upload_bytes + 1)
    for content in (too_much, iter([too_much])):  # announced, or found out
        assert stow.http.post(path, content=content, headers=headers).status_code == 413


def test_too_much_at_once_is_refused(stow: Gateway, quick: FactorySettings) -> None:
    assert post(stow, [], extra=[b"x" * (quick.max_upload_bytes + 1)], dicom_json=False)["status"] == 413


def test_what_matches_no_rule_is_kept_until_it_expires_and_leaves_nothing(
    quick: FactorySettings, run_gateway: RunGateway, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unet_factory_service.dicomweb.reception._PURGE_EVERY_S", 1)
    series = mr_series(Modality="CT", SeriesDescription="Secret description")
    root = received_in(quick)
    with run_gateway(quick.model_copy(update={"retention_s": 4.0})) as gateway:
        assert post(gateway, series)["status"] == 200
        poll(lambda: not due(redis))
        assert len(list(root.rglob("*.dcm"))) == len(series)
        assert jobs_of(gateway, redis) == []
        text = gateway.http.get("/metrics").text
        assert 'unet_factory_received_series_total{outcome="not_routed"}' in text
        assert series[0].StudyInstanceUID not in text
        poll(lambda: not list(root.iterdir()), 20)
        # its date of expiry goes last, so that a purge that is interrupted is done again
        poll(lambda: not [key for key in keys(redis) if key.startswith("received") and key != "received:purging"])


def test_a_series_outlives_the_gateway_that_received_it_and_two_make_one_job(
    settings: FactorySettings, quick: FactorySettings, run_gateway: RunGateway, redis: Redis
) -> None:
    series = mr_series()
    with run_gateway(quick.model_copy(update={"series_quiet_s": 2.0})) as gateway:
        post(gateway, series)
        assert jobs_of(gateway, redis) == []
    with run_gateway(quick) as first, run_gateway(quick):
        (job,) = await_jobs(first, redis, 1)
        poll(lambda: not due(redis))
        time.sleep(3 * QUIET_S)
        assert jobs_of(first, redis) == [job.id]
        assert first.http.delete(f"/segmentations/{job.id}").status_code == 204
        assert not list(received_in(quick).iterdir())


def test_a_real_client_stores(stow: Gateway, redis: Redis, tmp_path: Path) -> None:
    series = [dcmread(path) for path in saved(mr_series(), tmp_path)]
    answer = DICOMwebClient(f"{stow.url}/dicomweb").store_instances(series)
    assert len(answer.ReferencedSOPSequence) == len(series)
    await_jobs(stow, redis, 1)


def post(
    gateway: Gateway,
    series: list[Dataset],
    *,
    extra: list[bytes] | None = None,
    path: str = "/dicomweb/studies",
    dicom_json: bool = True,
) -> dict[str, Any]:
    """The answer's document, and its status."""
    content_type = 'multipart/related; type="application/dicom"; boundary=b'
    answer = gateway.http.post(path, content=body(series, extra or []), headers={"Content-Type": content_type})
    assert not dicom_json or answer.headers["Content-Type"] == "application/dicom+json"
    document: dict[str, Any] = answer.json()
    return document | {"status": answer.status_code}


def body(series: list[Dataset], extra: list[bytes] | tuple[bytes, ...] = ()) -> bytes:
    parts = [*map(encoded, series), *extra]
    return b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % part for part in parts) + b"--b--\r\n"


def encoded(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def uids(answer: dict[str, Any]) -> list[str]:
    return [item["00081155"]["Value"][0] for item in answer[REFERENCED].get("Value", [])]


def reasons(answer: dict[str, Any]) -> list[int]:
    return [item[REASON]["Value"][0] for item in answer.get(FAILED, {}).get("Value", [])]


def context_of(gateway: Gateway) -> GatewayContext:
    context: GatewayContext = gateway.server.app.state.gateway
    return context


def await_jobs(gateway: Gateway, redis: Redis, count: int) -> list[Job]:
    poll(lambda: len(jobs_of(gateway, redis)) >= count, 20)
    return [context_of(gateway).jobs.get(job_id) for job_id in jobs_of(gateway, redis)]


def jobs_of(gateway: Gateway, redis: Redis) -> list[str]:
    found: Any = redis.zrange("jobs:expiry", 0, -1)
    return sorted(raw.decode() for raw in found)


def ended(gateway: Gateway, job: Job) -> Job:
    jobs = context_of(gateway).jobs
    poll(lambda: jobs.get(job.id).state.final, 30)
    return jobs.get(job.id)


def received_in(settings: FactorySettings) -> Path:
    return Path(settings.blob_url.removeprefix("file://")) / "received"


def due(redis: Redis) -> int:
    found: Any = redis.zcard("received:due")
    return int(found)


def keys(redis: Redis) -> list[str]:
    found: Any = redis.keys("*")
    return [raw.decode() for raw in found]
