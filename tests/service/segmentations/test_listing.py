"""``GET /segmentations``: a caller's own jobs, each once, however the pages are cut."""

from pathlib import Path

import httpx
import pytest
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.service.conftest import Gateway
from tests.service.keyed import Asker, keyed_gateway, small_scan
from unet_factory.domain.jobs import JobState
from unet_factory.jobs.keys import listing_key
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.platform.api_keys import Scope
from unet_factory_client import FactoryClient

JOBS = 5


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return small_scan(tmp_path)


def submit(http: httpx.Client, scan: Path) -> str:
    job_id: str = http.post("/segmentations", files={"file": ("scan", scan.read_bytes())}).json()["id"]
    return job_id


def listed(http: httpx.Client, **query: str | int) -> list[str]:
    """Ids over all pages."""
    ids: list[str] = []
    while True:
        answer = http.get("/segmentations", params=query)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Cache-Control"] == "private, no-store"
        page = answer.json()
        ids += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            return ids
        query["cursor"] = page["next"]


@pytest.mark.parametrize("limit", [1, 2, JOBS, 200])
def test_every_job_is_listed_once_and_the_newest_first(
    http: httpx.Client, scan: Path, redis: Redis, limit: int
) -> None:
    submitted = [submit(http, scan) for _ in range(JOBS)]
    assert listed(http, limit=limit) == submitted[::-1]
    redis.zadd(listing_key(""), dict.fromkeys(submitted, 1.5))  # all at the same moment
    assert listed(http, limit=limit) == sorted(submitted, reverse=True)


def test_jobs_by_state_and_none_that_was_deleted(http: httpx.Client, scan: Path, lifecycle: JobLifecycle) -> None:
    running, queued, deleted = (submit(http, scan) for _ in range(3))
    assert lifecycle.claim(running, "worker", 60)
    assert http.delete(f"/segmentations/{deleted}").status_code == 204
    assert listed(http, state=JobState.RUNNING) == [running]
    assert listed(http, state=JobState.FAILED) == []
    assert set(listed(http, limit=1)) == {running, queued}


def test_pages_go_on_where_they_stopped_although_jobs_come_and_go(http: httpx.Client, scan: Path) -> None:
    submitted = [submit(http, scan) for _ in range(JOBS)]
    first = http.get("/segmentations", params={"limit": 2}).json()
    http.delete(f"/segmentations/{submitted[-2]}")  # the one that the cursor stands on
    submit(http, scan)
    assert listed(http, limit=2, cursor=first["next"]) == submitted[-3::-1]


def test_the_client_goes_through_all_pages(gateway: Gateway, http: httpx.Client, scan: Path) -> None:
    submitted = [submit(http, scan) for _ in range(JOBS)]
    with FactoryClient(gateway.url) as client:
        assert [job.id for job in client.jobs(page_size=2)] == submitted[::-1]
        assert [job.id for job in client.jobs(JobState.QUEUED, JobState.RUNNING)] == submitted[::-1]
        assert list(client.jobs(JobState.FAILED)) == []


def test_a_key_sees_its_own_jobs_and_those_it_shares(settings: FactorySettings, redis: Redis, scan: Path) -> None:
    with keyed_gateway(settings, redis) as keyed:
        owner, stranger, admin = (keyed.asker(scope) for scope in (Scope.SEGMENT, Scope.SEGMENT, Scope.ADMIN))
        partner = keyed.asker(Scope.READ, shares_jobs_of=owner.id)
        job_id = owner.submit(scan).json()["id"]
        assert [ids_of(asker) for asker in (owner, partner, stranger, admin)] == [[job_id], [job_id], [], []]


def ids_of(asker: Asker) -> list[str]:
    return [job["id"] for job in asker.get("/segmentations").json()["jobs"]]


@pytest.mark.parametrize("query", ["cursor=1", "cursor=nan-" + "0" * 32, "limit=0", "limit=201", "state=done"])
def test_what_is_wrong_with_the_query_is_said(http: httpx.Client, query: str) -> None:
    refused = http.get(f"/segmentations?{query}")
    assert refused.status_code == 400
    assert query.partition("=")[0] in refused.json()["detail"]
