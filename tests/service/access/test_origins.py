"""A gateway without keys answers to its own names, and changes nothing for pages from elsewhere."""

from pathlib import Path

import httpx
import pytest
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.service.conftest import RunGateway
from tests.service.keyed import keyed_gateway, small_scan

FOREIGN = "attacker.example"


@pytest.mark.parametrize("path", ["/models", "/dicomweb/studies", "/segmentations/" + "0" * 32])
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_a_foreign_name_is_not_answered(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path, headers={"Host": FOREIGN})
    assert (answer.status_code, answer.headers["Content-Type"]) == (421, "application/problem+json")
    assert "UNET_FACTORY_ALLOWED_HOSTS" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "gateway:8000", "factory.localhost"])
def test_own_names_are_answered(http: httpx.Client, host: str) -> None:
    assert http.get("/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", [f"https://{FOREIGN}", "http://localhost:1", "null", "http://["])
def test_a_foreign_page_changes_nothing(http: httpx.Client, tmp_path: Path, origin: str) -> None:
    scan = small_scan(tmp_path).read_bytes()
    answer = http.post("/segmentations", files={"file": ("scan", scan)}, headers={"Origin": origin})
    assert answer.status_code == 403
    own = str(http.base_url).rstrip("/")
    assert http.post("/segmentations", files={"file": ("scan", scan)}, headers={"Origin": own}).status_code == 202


def test_the_operator_names_more(settings: FactorySettings, run_gateway: RunGateway) -> None:
    changed = settings.model_copy(update={"allowed_hosts": "scans.example, other.example"})
    with run_gateway(changed) as gateway:
        for host, status in (("scans.example:8000", 200), ("other.example", 200), (FOREIGN, 421)):
            assert gateway.http.get("/models", headers={"Host": host}).status_code == status


def test_where_keys_are_required_any_name_will_do(settings: FactorySettings, redis: Redis) -> None:
    with keyed_gateway(settings, redis) as keyed:
        assert httpx.get(f"{keyed.gateway.url}/livez", headers={"Host": FOREIGN}, trust_env=False).status_code == 200
