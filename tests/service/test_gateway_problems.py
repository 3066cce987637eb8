"""Whatever goes wrong is a problem document; and OpenAPI says so."""

import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import write_nifti
from tests.service.conftest import Gateway, RunGateway
from unet_factory.domain import errors
from unet_factory.domain.jobs import Job
from unet_factory.jobs.queue import JobQueue
from unet_factory_service import errors as gateway_errors
from unet_factory_service.problems import STATUS

JOB_ID = "0" * 32


def assert_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert {"type", "title", "detail"} <= document.keys()
    return document


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/models/none", 404),
        ("PUT", "/segmentations", 405),
        ("PUT", "/unet", 405),
        ("POST", "/models", 405),
        ("TRACE", "/livez", 405),
        ("POST", "/segmentations", 400),
    ],
)
def test_a_wrong_address_or_method_is_a_problem(http: httpx.Client, method: str, path: str, status: int) -> None:
    answer = http.request(method, path)
    assert_problem(answer, status)
    if status == 405:
        assert answer.headers["Allow"]


def test_all_methods_of_a_path_are_allowed_by_name(http: httpx.Client) -> None:
    assert {"GET", "POST"} <= set(http.put("/segmentations").headers["Allow"].split(", "))
    assert {"GET", "DELETE"} <= set(http.put(f"/segmentations/{JOB_ID}").headers["Allow"].split(", "))


def test_an_unexpected_error_is_500_and_keeps_its_secrets(
    http: httpx.Client, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis.hset(f"job:{JOB_ID}", "state", '"no such state"')
    answer = http.get(f"/segmentations/{JOB_ID}", headers={"X-Request-ID": "find-me"})
    document = assert_problem(answer, 500)
    assert not re.search("Traceback|pydantic|no such state", str(document))
    assert "find-me" in caplog.text
    assert "ValidationError" in caplog.text
    assert "no such state" not in caplog.text, "the message of an error may quote a scan's header"


def test_a_command_that_redis_refuses_is_500_not_a_reason_to_retry(http: httpx.Client, redis: Redis) -> None:
    redis.set(f"job:{JOB_ID}", "a string where a hash should be")
    assert "Retry-After" not in http.get(f"/segmentations/{JOB_ID}").headers
    assert_problem(http.get(f"/segmentations/{JOB_ID}"), 500)


def test_without_redis_the_gateway_starts_and_says_503(
    run_gateway: RunGateway, settings: FactorySettings, tmp_path: Path
) -> None:
    away = settings.model_copy(update={"redis_url": f"unix://{tmp_path}/none"})
    scan = write_nifti(tmp_path / "scan.nii.gz").read_bytes()
    with run_gateway(away) as gateway:
        for method, path in (
            ("GET", "/unet?spacing=1,1,1"),
            ("POST", "/segmentations"),
            ("GET", f"/segmentations/{JOB_ID}"),
            ("GET", f"/segmentations/{JOB_ID}/events"),
            ("GET", f"/segmentations/{JOB_ID}/labelmap"),
            ("DELETE", f"/segmentations/{JOB_ID}"),
            ("GET", "/readyz"),
        ):
            answer = gateway.http.request(method, path, files={"file": ("x", scan)} if method == "POST" else None)
            assert_problem(answer, 503)
            assert int(answer.headers["Retry-After"]) > 0
        assert gateway.http.get("/readyz").json()["missing"] == ["the broker"]
        assert gateway.http.get("/livez").status_code == 200
        assert gateway.http.get("/metrics").status_code == 200
        assert gateway.http.get("/models").status_code == 200


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2_3", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("{}", False), ("", False)],
)
def test_every_answer_has_a_request_id(http: httpx.Client, given: str, kept: bool) -> None:
    for path in ("/livez", "/nothing"):
        answered = http.get(path, headers={"X-Request-ID": given}).headers["X-Request-ID"]
        assert (answered == given) is kept
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answered)


def test_every_error_that_a_caller_can_cause_has_its_status() -> None:
    ours = {
        errors.FactoryError,
        errors.ApiKeyInvalid,
        errors.ApiKeyUnknown,
        errors.CheckpointInvalid,
        errors.WorkerLost,
        errors.OutOfMemory,
        errors.DatasetInvalid,
        errors.DestinationsInvalid,
        errors.RoutingInvalid,
    }
    known = {kind for module in (errors, gateway_errors) for kind in vars(module).values() if isinstance(kind, type)}
    assert {kind for kind in known if issubclass(kind, errors.FactoryError)} - STATUS.keys() == ours


def test_openapi_is_valid_and_documents_problems(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    validate(document)
    assert "HTTPValidationError" not in document["components"]["schemas"]
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    for operation in operations:
        for status, answer in operation["responses"].items():
            if (operation["operationId"].startswith("store_instances"), status) == (True, "409"):
                assert list(answer["content"]) == ["application/dicom+json"], "says what became of each (PS3.18)"
            elif status >= "400":
                assert list(answer["content"]) == ["application/problem+json"], operation["operationId"]


def test_openapi_has_examples(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    parameters = {parameter["name"]: parameter for parameter in paths["/unet"]["get"]["parameters"]}
    assert parameters["spacing"]["schema"]["examples"] == ["1,0.5,0.5"]
    accepted = paths["/segmentations"]["post"]["responses"]["202"]["content"]["application/json"]
    assert accepted["example"]["state"] == "running"


def test_every_example_of_a_job_is_a_job(http: httpx.Client) -> None:
    operations = [one for path in http.get("/openapi.json").json()["paths"].values() for one in path.values()]
    contents = [
        answer.get("content", {}).get("application/json", {})
        for operation in operations
        for answer in operation["responses"].values()
    ]
    jobs = [one for one in contents if "example" in one and one.get("schema", {}).get("$ref", "").endswith("/Job")]
    assert len(jobs) >= 3
    for one in jobs:
        shown = Job.model_validate(one["example"]).model_dump(mode="json", exclude_none=True)
        assert shown == one["example"], "no field is left out, but for those that are null"


def test_a_broker_that_is_away_is_not_ready(tmp_path: Path) -> None:
    queue = JobQueue(f"redis+socket://{tmp_path}/none")
    started = time.monotonic()
    with pytest.raises(errors.QueueUnavailable):
        queue.send_segmentation(JOB_ID)
    assert time.monotonic() - started < 5
    queue.close()


def test_head_and_get_of_an_unknown_page_agree(gateway: Gateway) -> None:
    head, get = gateway.http.head("/nothing"), gateway.http.get("/nothing")
    assert (head.status_code, head.headers["Content-Length"]) == (404, get.headers["Content-Length"])
