"""The audit trail: a line for every access to patient data and failed authentication, and nothing of a patient."""

import asyncio
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.service.conftest import RunGateway, poll
from tests.service.keyed import keyed_gateway, small_scan
from unet_factory.platform.api_keys import Scope
from unet_factory.platform.audit import Action, AuditOutcome, close_trail, open_trail, record
from unet_factory_service.access.audit_trail import MOST_CLIENTS, Refusal, Refusals

JOB_ID = "0" * 32


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "logs" / "audit.log"
    open_trail(str(path))
    yield path
    close_trail()


def lines(trail: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in trail.read_text().splitlines()]


def test_every_access_leaves_a_line(trail: Path, settings: FactorySettings, redis: Redis, tmp_path: Path) -> None:
    scan = small_scan(tmp_path)
    with keyed_gateway(settings, redis) as keyed:
        owner, other = keyed.asker(Scope.SEGMENT), keyed.asker(Scope.SEGMENT)
        job_id = owner.submit(scan, **{"X-Request-ID": "first"}).json()["id"]
        path = f"/segmentations/{job_id}"
        owner.get(path)
        owner.get(f"{path}/labelmap")
        other.get(path)
        keyed.asker(Scope.READ).ask("DELETE", path)
        owner.ask("DELETE", path)
        wrong = owner.token[:-1] + ("0" if owner.token[-1] != "0" else "1")
        for headers in ({}, {"X-API-Key": "Doe^Jane"}, {"X-API-Key": wrong}):
            httpx.get(f"{owner.url}{path}", headers=headers, trust_env=False)
        for public in ("/livez", "/metrics"):
            httpx.get(f"{owner.url}{public}", trust_env=False)
        owner.get("/models")
        owner.get("/unet?spacing=1,1,1")
    found = lines(trail)
    told = [(line["action"], line["outcome"], line.get("job"), line["status"]) for line in found]
    assert told == [
        ("create", "ok", job_id, 202),
        ("read-job", "ok", job_id, 200),
        ("read-result", "refused", job_id, 409),
        ("read-job", "refused", job_id, 404),
        ("delete", "refused", None, 403),
        ("delete", "ok", job_id, 204),
        *[("authenticate", "refused", None, 401)] * 2,
        ("authorise", "refused", None, 403),
        ("authenticate", "refused", None, 401),
    ]
    assert [(line.get("key"), line.get("count")) for line in found[6:]] == [
        (None, None),
        (owner.id, None),
        (owner.id, None),
        (None, 1),
    ]
    assert (found[0]["key"], found[0]["request"], found[3]["key"]) == (owner.id, "first", other.id)
    assert all(line["time"].endswith("Z") and line["client"] == "127.0.0.1" for line in found)
    text = trail.read_text()
    assert "Doe" not in text
    assert owner.token not in text
    assert owner.token.rpartition("_")[2] not in text


def test_the_unknown_leave_a_line_at_once_and_one_a_minute(
    trail: Path, settings: FactorySettings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unet_factory_service.access.audit_trail.EVERY_S", 1.0)
    with keyed_gateway(settings, redis) as keyed, httpx.Client(base_url=keyed.gateway.url, trust_env=False) as nobody:
        assert nobody.get("/models").status_code == 401
        assert len(lines(trail)) == 1
        for number in range(100):
            nobody.get(f"/unet?spacing=1,1,{number}", headers={"X-API-Key": f"guess-{number}"})
        nobody.get("/models", headers={"X-Forwarded-For": "192.0.2.7"})
        poll(lambda: sum(line.get("count", 1) for line in lines(trail)) == 102)
    found = lines(trail)
    assert len(found) <= 8
    assert [line["client"] for line in found].count("192.0.2.7") == 1


def test_clients_without_number_share_one_count(trail: Path) -> None:
    async def attempts() -> None:
        refusals = Refusals(every_s=600)
        for number in range(2 * MOST_CLIENTS):
            refusals.only_counts(Refusal(Action.AUTHENTICATE, f"2001:db8::{number:x}", None, 401))
        refusals.tell_all()

    asyncio.run(attempts())
    (line,) = lines(trail)
    assert (line.get("client"), line["count"]) == (None, MOST_CLIENTS - 1)


def test_pages_from_elsewhere_leave_one_line(trail: Path, settings: FactorySettings, run_gateway: RunGateway) -> None:
    with run_gateway(settings) as gateway:
        for _ in range(20):
            foreign = {"Origin": "https://evil.example"}
            assert gateway.http.delete(f"/segmentations/{JOB_ID}", headers=foreign).status_code == 403
    assert [line.get("count") for line in lines(trail)] == [None, 19]


def test_what_is_refused_for_its_content_is_an_access_too(
    trail: Path, settings: FactorySettings, redis: Redis, tmp_path: Path
) -> None:
    (tmp_path / "bad.nii").write_bytes(b"no volume")
    with keyed_gateway(settings, redis) as keyed:
        assert keyed.asker(Scope.SEGMENT).submit(tmp_path / "bad.nii").status_code == 415
    assert [(line["action"], line["outcome"]) for line in lines(trail)] == [("create", "refused")]


def test_lines_are_appended_for_the_owners_eyes_and_follow_a_rotation(trail: Path) -> None:
    record(Action.EXPORT, AuditOutcome.OK, job=JOB_ID, destination="archive")
    assert stat.S_IMODE(trail.stat().st_mode) == 0o600
    trail.rename(trail.with_suffix(".1"))
    record(Action.DELETE, AuditOutcome.OK, job=JOB_ID)
    assert [line["action"] for path in (trail.with_suffix(".1"), trail) for line in lines(path)] == ["export", "delete"]
    open_trail(str(trail))
    record(Action.FETCH, AuditOutcome.FAILED, job=JOB_ID)
    assert [line["action"] for line in lines(trail)] == ["delete", "fetch"]


def test_a_line_that_cannot_be_written_is_counted_and_told(trail: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_trail("/dev/full")
    before = REGISTRY.get_sample_value("unet_factory_audit_failures_total")
    record(Action.DELETE, AuditOutcome.OK, job=JOB_ID)
    assert before is not None
    assert REGISTRY.get_sample_value("unet_factory_audit_failures_total") == before + 1
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "could not be written: OSError" in error.getMessage()
    assert JOB_ID not in error.getMessage()
