"""How much one key may ask for: the refusal names the limit and when to come back, and no race gets past it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from redis import Redis

from tests.fixtures.dicom_files import as_bytes, mr_series
from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import write_nifti
from tests.service.keyed import Asker, keyed_gateway, small_scan
from tests.service.test_gateway_problems import assert_problem
from unet_factory.domain.jobs import JobState
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.maintenance import Maintenance
from unet_factory.jobs.store import JobStore
from unet_factory.platform.api_keys import Scope
from unet_factory.platform.blob_store import BlobStore
from unet_factory_service.dicomweb.received import ReceivedSeries

PER_MINUTE, JOBS = 5, 3


def test_more_requests_than_allowed_are_refused_for_this_key_alone(settings: FactorySettings, redis: Redis) -> None:
    with keyed_gateway(settings, redis, key_requests_per_minute=PER_MINUTE) as keyed:
        busy, other, unlimited = (keyed.asker(Scope.READ, requests_per_minute=limit) for limit in (None, None, 0))
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(busy.get, ["/models"] * (2 * PER_MINUTE)))
        assert sorted(answer.status_code for answer in answers) == [200] * PER_MINUTE + [429] * PER_MINUTE
        refused = next(answer for answer in answers if answer.status_code == 429)
        document = assert_problem(refused, 429)
        assert (document["quota"], document["limit"]) == ("requests-per-minute", PER_MINUTE)
        assert 1 <= int(refused.headers["Retry-After"]) == document["retry_after_s"] <= 60
        assert other.get("/models").status_code == 200
        assert {unlimited.get("/models").status_code for _ in range(2 * PER_MINUTE)} == {200}
        keys = list(redis.keys("quota*"))
        assert keys
        assert all(0 < redis.pttl(key) <= 61_000 for key in keys), "counts go by themselves"


def test_jobs_in_flight_never_exceed_the_quota_and_ended_ones_make_room(
    settings: FactorySettings, redis: Redis, tmp_path: Path, lifecycle: JobLifecycle
) -> None:
    scan = small_scan(tmp_path)
    with keyed_gateway(settings, redis, key_jobs_in_flight=JOBS) as keyed:
        busy, other = keyed.asker(Scope.SEGMENT), keyed.asker(Scope.SEGMENT)
        sharing = keyed.asker(Scope.SEGMENT, shares_jobs_of=busy.id)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(busy.submit, [scan] * (2 * JOBS)))
        assert sorted(answer.status_code for answer in answers) == [202] * JOBS + [429] * JOBS
        document = assert_problem(next(answer for answer in answers if answer.status_code == 429), 429)
        assert (document["quota"], document["limit"]) == ("jobs-in-flight", JOBS)
        assert sharing.submit(scan).status_code == 429, "they are the same jobs"
        assert other.submit(scan).status_code == 202
        ids = [answer.json()["id"] for answer in answers if answer.status_code == 202]
        assert lifecycle.cancel(ids[0])
        assert busy.submit(scan).status_code == 202
        assert busy.ask("DELETE", f"/segmentations/{ids[1]}").status_code == 204
        assert [busy.submit(scan).status_code for _ in range(2)] == [202, 429]


def test_what_is_refused_takes_no_place(settings: FactorySettings, redis: Redis, tmp_path: Path) -> None:
    with keyed_gateway(settings, redis, key_jobs_in_flight=1) as keyed:
        asker = keyed.asker(Scope.SEGMENT)
        (tmp_path / "bad.nii").write_bytes(b"no volume")
        for _ in range(3):
            assert asker.submit(tmp_path / "bad.nii").status_code == 415
        assert asker.submit(small_scan(tmp_path)).status_code == 202


def test_a_place_taken_by_a_gateway_that_died_becomes_free(redis: Redis) -> None:
    jobs = JobStore(redis)
    assert jobs.reserve("owner", "1" * 32, 1)
    assert not jobs.reserve("owner", "2" * 32, 1)
    redis.zadd("jobs:of:owner", {"1" * 32: 0})
    assert jobs.reserve("owner", "2" * 32, 1)


def test_bytes_stored_for_a_key_never_exceed_its_quota_and_a_delete_frees_them(
    settings: FactorySettings, redis: Redis, tmp_path: Path
) -> None:
    scan = write_nifti(tmp_path / "scan.nii")
    each = scan.stat().st_size
    with keyed_gateway(settings, redis, key_stored_bytes=3 * each + each // 2) as keyed:
        busy, other, unlimited = (keyed.asker(Scope.SEGMENT, stored_bytes=limit) for limit in (None, None, 0))
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(busy.submit, [scan] * 6))
        assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 3
        document = assert_problem(next(answer for answer in answers if answer.status_code == 429), 429)
        assert document["type"] == "urn:unet-factory:problem:quota-exceeded"
        found = (document["quota"], document["limit"], document["used"])
        assert found == ("stored-bytes", 3 * each + each // 2, 3 * each)
        assert other.submit(scan).status_code == 202
        assert {unlimited.submit(scan).status_code for _ in range(5)} == {202}
        accepted = next(answer.json()["id"] for answer in answers if answer.status_code == 202)
        assert busy.ask("DELETE", f"/segmentations/{accepted}").status_code == 204
        assert [busy.submit(scan).status_code for _ in range(2)] == [202, 429]


def test_received_series_count_as_stored_until_they_are_deleted(settings: FactorySettings, redis: Redis) -> None:
    slices = [as_bytes(one) for one in mr_series(4, 64)]
    size = sum(map(len, slices))
    with keyed_gateway(settings, redis, key_stored_bytes=size, series_quiet_s=600) as keyed:
        asker, jobs = keyed.asker(Scope.SEGMENT), JobStore(redis)
        assert stow(asker, slices[:3]).status_code == 200
        assert stow(asker, slices[:3]).status_code == 200, "sent again, they take up no more"
        assert jobs.stored_bytes(asker.id) == sum(map(len, slices[:3]))
        refused = stow(asker, [as_bytes(one) for one in mr_series(4, 64, SeriesInstanceUID="1.2.3")])
        assert assert_problem(refused, 429)["quota"] == "stored-bytes"
        assert jobs.stored_bytes(asker.id) == sum(map(len, slices[:3])), "what is refused is not counted"
        assert stow(asker, slices[3:]).status_code == 200
        assert stow(asker, slices[3:]).status_code == 429, "nothing is left"
        received = ReceivedSeries(redis, settings)
        for series_id in received.waiting_ids():
            received.purge(series_id)
        assert jobs.stored_bytes(asker.id) == 0


def test_what_is_stored_for_a_job_is_counted_again_when_it_ends_and_when_its_upload_goes(
    settings: FactorySettings, redis: Redis, tmp_path: Path, lifecycle: JobLifecycle
) -> None:
    scan, blobs, jobs = write_nifti(tmp_path / "scan.nii"), BlobStore(settings.blob_url), JobStore(redis)
    upload, result = scan.stat().st_size, 1234
    with keyed_gateway(settings, redis, maintenance_interval_s=600, upload_retention_s=0) as keyed:
        asker = keyed.asker(Scope.SEGMENT)
        job_id = asker.submit(scan).json()["id"]
        assert jobs.stored_bytes(asker.id) == upload
        (tmp_path / "result").write_bytes(bytes(result))
        assert lifecycle.claim(job_id, "worker", 60)
        blobs.put(job_id, "labelmap.nii.gz", tmp_path / "result")
        assert lifecycle.finish(job_id, "worker", JobState.SUCCEEDED)
        assert jobs.stored_bytes(asker.id) == upload + result
        Maintenance(redis, blobs, lambda _: None, settings).purge_uploads()
        assert jobs.stored_bytes(asker.id) == result
        lifecycle.purge(job_id)
        assert jobs.stored_bytes(asker.id) == 0


def stow(asker: Asker, instances: list[bytes]) -> httpx.Response:
    parts = [b"--b\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % one for one in instances]
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    return asker.ask("POST", "/dicomweb/studies", content=b"".join(parts) + b"--b--\r\n", headers=headers)
