"""Pages of origins that the operator names may use the gateway from a browser; no others may."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.service.conftest import Gateway, RunGateway
from tests.service.keyed import KeyedGateway, keyed_gateway, small_scan
from unet_factory.platform.api_keys import Scope
from unet_factory_service.settings import GatewaySettings

VIEWER, FOREIGN = "https://viewer.hospital.example", "https://attacker.example"
STRICT = ("content-security-policy", "cross-origin-resource-policy", "referrer-policy", "x-content-type-options")


@pytest.fixture
def keyed(settings: FactorySettings, redis: Redis) -> Iterator[KeyedGateway]:
    with keyed_gateway(settings, redis, cors_origins=f"{VIEWER}, http://localhost:3000") as keyed:
        yield keyed


def preflight(url: str, origin: str, method: str, *headers: str) -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    return httpx.options(url, headers=asked | {"Access-Control-Request-Headers": ", ".join(headers)}, trust_env=False)


def test_a_named_page_may_ask_with_a_key_and_read_what_it_needs(keyed: KeyedGateway, tmp_path: Path) -> None:
    url = f"{keyed.gateway.url}/segmentations"
    allowed = preflight(url, VIEWER, "POST", "authorization", "idempotency-key", "prefer")
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == VIEWER
    assert "Access-Control-Allow-Credentials" not in allowed.headers
    answer = keyed.asker(Scope.SEGMENT).submit(small_scan(tmp_path), Origin=VIEWER)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (202, VIEWER)
    readable = {name.strip() for name in answer.headers["Access-Control-Expose-Headers"].split(",")}
    assert {"ETag", "Location", "Retry-After", "X-Request-ID", "Content-Range"} <= readable
    for path in ("/dicomweb/studies", "/dicomweb/studies/1.2/series/1.2/instances/1.2/frames/1"):
        assert preflight(f"{keyed.gateway.url}{path}", VIEWER, "GET", "authorization", "accept").status_code == 200


def test_it_can_read_refusals_too(keyed: KeyedGateway) -> None:
    answer = httpx.get(f"{keyed.gateway.url}/models", headers={"Origin": VIEWER}, trust_env=False)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (401, VIEWER)


def test_no_other_page_may(keyed: KeyedGateway) -> None:
    assert preflight(f"{keyed.gateway.url}/segmentations", FOREIGN, "POST", "authorization").status_code == 400
    answer = keyed.asker(Scope.READ).ask("GET", "/models", headers={"Origin": FOREIGN})
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_without_keys_a_named_page_may_make_changes_and_no_other(
    settings: FactorySettings, run_gateway: RunGateway, tmp_path: Path
) -> None:
    scan = {"file": ("scan", small_scan(tmp_path).read_bytes())}
    with run_gateway(settings.model_copy(update={"cors_origins": VIEWER})) as gateway:
        for origin, status in ((VIEWER, 202), (FOREIGN, 403)):
            answer = gateway.http.post("/segmentations", files=scan, headers={"Origin": origin})
            assert answer.status_code == status
            assert ("Access-Control-Allow-Origin" in answer.headers) is (origin == VIEWER)


def test_unless_pages_are_named_there_is_no_cross_origin_answer(gateway: Gateway) -> None:
    assert preflight(f"{gateway.url}/models", VIEWER, "GET").status_code == 405
    assert "Access-Control-Allow-Origin" not in gateway.http.get("/models", headers={"Origin": VIEWER}).headers


@pytest.mark.parametrize("origins", ["viewer.example", "https://viewer.example/", "https://viewer.example/ohif", "*"])
def test_what_is_no_origin_or_opens_scans_to_any_page_is_refused(origins: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        GatewaySettings(cors_origins=origins)
    if origins == "*":
        assert GatewaySettings(cors_origins=origins, authentication="required").cors_origin_list == ("*",)


@pytest.mark.parametrize("path", ["/", "/docs", "/livez", "/models", "/metrics", "/nowhere", "/segmentations/x"])
def test_every_answer_is_strict_with_browsers(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert all(name in answer.headers for name in STRICT), answer.headers
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
