"""How many networks one key may have made, and keep in the cache."""

from collections.abc import Sequence

import httpx
import pytest
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.service.keyed import Asker, keyed_gateway
from tests.service.test_gateway_problems import assert_problem
from unet_factory.domain.jobs import WEIGHTS_QUEUE, GenerationRequest
from unet_factory.jobs.queue import NetworkOrders, OrderLimits, Taken
from unet_factory.platform.api_keys import Scope
from unet_factory.platform.weight_cache import weight_key


def wanted(digest: str, number: int) -> GenerationRequest:
    return GenerationRequest(model="tiny", checkpoint_digest=digest, snapped_um=(1000, 1000, 1000 + 50 * number))


def order(asker: Asker, number: int) -> httpx.Response:
    path = f"/unet?spacing=1,1,{1 + number / 20}"
    return asker.ask("GET", path, headers={"Prefer": "respond-async"})


def statuses(answers: Sequence[httpx.Response]) -> list[int]:
    return [answer.status_code for answer in answers]


@pytest.mark.usefixtures("worker_present")
def test_orders_are_bounded_by_key_and_in_total(settings: FactorySettings, redis: Redis, digest: str) -> None:
    limits = {"key_ordered_networks": 3, "max_ordered_networks": 5}
    with keyed_gateway(settings, redis, **limits) as keyed:
        greedy, other, third = (keyed.asker(Scope.WEIGHTS) for _ in range(3))
        answers = [order(greedy, number) for number in range(6)]
        assert statuses(answers) == [202] * 3 + [429] * 3
        document = assert_problem(answers[-1], 429)
        assert (document["quota"], document["limit"]) == ("networks-in-the-making", 3)
        assert int(answers[-1].headers["Retry-After"]) > 0
        assert order(greedy, 0).status_code == 202, "it is being made already"
        assert statuses([order(other, number) for number in (10, 11)]) == [202] * 2
        full = order(third, 20)
        assert assert_problem(full, 429)["type"].endswith("queue-full")
        assert int(full.headers["Retry-After"]) > 0
        assert order(third, 0).status_code == 202, "it is being made for somebody else"
        assert redis.llen(WEIGHTS_QUEUE) == 5
        NetworkOrders(redis).done(wanted(digest, 0))
        assert order(greedy, 5).status_code == 202, "what was refused is not held against the next order"
        assert order(greedy, 4).status_code == 429


def test_a_network_that_was_made_or_cannot_be_frees_its_place(
    settings: FactorySettings, redis: Redis, worker: None
) -> None:
    with keyed_gateway(settings, redis, key_ordered_networks=1) as keyed:
        asker = keyed.asker(Scope.WEIGHTS)
        for number in range(5):
            assert asker.get(f"/unet?spacing=1,1,{1 + number / 20}").status_code == 200
    assert not redis.exists("networks:being-made")


def test_one_key_drops_its_own_oldest_networks_and_nobody_elses(
    settings: FactorySettings, redis: Redis, worker: None, digest: str
) -> None:
    with keyed_gateway(settings, redis, key_cached_networks=3) as keyed:
        others, greedy = keyed.asker(Scope.WEIGHTS), keyed.asker(Scope.WEIGHTS)
        for asker, numbers in ((others, range(2)), (greedy, range(2, 9))):
            for number in numbers:
                assert asker.get(f"/unet?spacing=1,1,{1 + number / 20}").status_code == 200
    kept = [number for number in range(9) if redis.exists(weight_key(wanted(digest, number)))]
    assert kept == [0, 1, 6, 7, 8]


def test_a_place_whose_message_was_lost_becomes_free(
    redis: Redis, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unet_factory.jobs.queue._LASTS_S", -1.0)
    orders, limits = NetworkOrders(redis), OrderLimits(owner=1, in_all=1, kept=0)
    assert orders.take(wanted(digest, 0), "me", limits) == []
    assert orders.take(wanted(digest, 1), "me", limits) == []
    monkeypatch.setattr("unet_factory.jobs.queue._LASTS_S", 300.0)
    assert orders.take(wanted(digest, 2), "me", limits) == []
    assert orders.take(wanted(digest, 3), "me", limits) is Taken.OWNER
    assert orders.take(wanted(digest, 3), "", limits) is Taken.ALL
