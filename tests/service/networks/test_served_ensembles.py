"""An ensemble over HTTP: its members in ``/models``, one of them from ``/unet``, all of them in a price."""

from collections.abc import Iterator

import httpx
import pytest
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.fixtures.tiny_model import TinyEnsemble
from tests.service.conftest import Gateway, RunGateway
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import load_checkpoint, standalone_bytes
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory_client import FactoryClient

SCAN = {"shape": [70, 40, 30], "spacing": [1, 1, 1]}


@pytest.fixture
def settings(shared_settings: FactorySettings, redis: Redis, tiny_ensemble: TinyEnsemble) -> FactorySettings:
    return shared_settings.model_copy(update={"models_dir": tiny_ensemble.file.parent})


@pytest.fixture
def gateway(settings: FactorySettings, run_gateway: RunGateway) -> Iterator[Gateway]:
    with run_gateway(settings) as gateway:
        yield gateway


def test_a_member_is_fetched_by_its_number(gateway: Gateway, worker: None, tiny_ensemble: TinyEnsemble) -> None:
    ensemble = load_checkpoint(tiny_ensemble.file)
    with FactoryClient(gateway.url) as client:
        networks = [client.unet((1, 1, 1), member=number) for number in (1, 2, 3)]
    for number, network in enumerate(networks, start=1):
        assert network.blob == standalone_bytes(ensemble, SnappedSpacing(1000, 1000, 1000), member=number)
        assert network.headers["x-member"] == str(number)
        assert f"tiny-member-{number}-1x1x1mm" in network.headers["content-disposition"]
    assert len({network.etag for network in networks}) == 3


@pytest.mark.parametrize("member", [{}, {"member": 4}])
def test_which_member_must_be_said(http: httpx.Client, member: dict[str, int]) -> None:
    answer = http.get("/unet", params={"spacing": "1,1,1", **member})
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["type"] == "urn:unet-factory:problem:member-invalid"
    assert problem["members"] == 3
    assert "member=1 to member=3" in problem["detail"]


def test_its_members_are_named_and_its_price_is_theirs(
    http: httpx.Client, tiny_ensemble: TinyEnsemble, shared_gateway: Gateway
) -> None:
    (model,) = http.get("/models").json()
    digests = [ModelRegistry.scan(path.parent).get().digest for path in tiny_ensemble.members]
    assert [member["digest"] for member in model["members"]] == digests
    (single,) = shared_gateway.http.get("/models").json()
    assert single["members"] == []
    price, price_of_one = (
        each.post("/quote", json=SCAN).raise_for_status().json() for each in (http, shared_gateway.http)
    )
    assert price["options"][0]["tiles"] == 3 * price_of_one["options"][0]["tiles"]
    refused = shared_gateway.http.get("/unet", params={"spacing": "1,1,1", "member": 1})
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:unet-factory:problem:member-invalid")
