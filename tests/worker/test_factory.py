"""Networks from the device, from Redis, or made: the same either way, and told apart by the metrics."""

from pathlib import Path

import pytest
import torch
from prometheus_client.registry import REGISTRY
from redis import Redis
from torch import nn

from unet_factory.domain.errors import ModelUnknown
from unet_factory.domain.jobs import GenerationRequest
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.jobs.queue import NetworkOrders
from unet_factory.model.checkpoint import Checkpoint, standalone_bytes
from unet_factory.platform.weight_cache import WeightCache, weight_key
from unet_factory_worker.child import WorkerContext
from unet_factory_worker.factory import WeightFactory

ISOTROPIC, FLAT = SnappedSpacing(1000, 1000, 1000), SnappedSpacing(1000, 500, 2000)


@pytest.fixture
def cache(redis: Redis) -> WeightCache:
    return WeightCache(redis)


def factory_of(checkpoint: Checkpoint, cache: WeightCache, capacity: int = 2) -> WeightFactory:
    orders = NetworkOrders(cache._redis)
    return WeightFactory(lambda *_: checkpoint, cache, orders, torch.device("cpu"), capacity)


def test_made_once_then_found_on_the_device_and_in_redis(checkpoint: Checkpoint, cache: WeightCache) -> None:
    factory, count = factory_of(checkpoint, cache), Counts()
    made = factory.network("tiny", checkpoint.digest, FLAT)
    assert (made.cached, count.new()) == (False, (0, 1, 1))
    on_device = factory.network("tiny", checkpoint.digest, FLAT)
    assert (on_device.cached, count.new()) == (True, (1, 0, 0))
    assert on_device.unet is made.unet
    in_redis = factory_of(checkpoint, cache).network("tiny", checkpoint.digest, FLAT)
    assert (in_redis.cached, count.new()) == (True, (1, 0, 0))
    assert same_weights(in_redis.unet, made.unet)


def test_the_device_keeps_those_used_last(checkpoint: Checkpoint, cache: WeightCache) -> None:
    factory = factory_of(checkpoint, cache, capacity=2)
    first = factory.network("tiny", checkpoint.digest, ISOTROPIC).unet
    second = factory.network("tiny", checkpoint.digest, FLAT).unet
    assert factory.network("tiny", checkpoint.digest, ISOTROPIC).unet is first
    factory.network("tiny", checkpoint.digest, SnappedSpacing(3000, 3000, 3000))
    assert factory.network("tiny", checkpoint.digest, ISOTROPIC).unet is first
    assert factory.network("tiny", checkpoint.digest, FLAT).unet is not second


def test_two_builds_give_the_same_bytes_and_other_spacings_others(
    checkpoint: Checkpoint, cache: WeightCache, redis: Redis
) -> None:
    request = request_of(checkpoint, FLAT)
    blobs = []
    for _ in range(2):
        redis.flushall()
        factory_of(checkpoint, cache).publish(request)
        found = cache.get(request)
        assert found is not None
        blobs.append(found.blob)
    assert blobs[0] == blobs[1] == standalone_bytes(checkpoint, FLAT)
    assert blobs[0] != standalone_bytes(checkpoint, ISOTROPIC)


def test_a_damaged_cache_entry_is_made_again(checkpoint: Checkpoint, cache: WeightCache, redis: Redis) -> None:
    request = request_of(checkpoint, FLAT)
    factory_of(checkpoint, cache).publish(request)
    redis.setrange(weight_key(request), 1000, b"damage")
    count = Counts()
    made = factory_of(checkpoint, cache).network("tiny", checkpoint.digest, FLAT)
    assert (made.cached, count.new()) == (False, (0, 1, 1))
    assert cache.get(request) is not None


def test_a_cache_that_is_away_costs_time_not_the_network(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with Redis.from_url(f"unix://{tmp_path}/nobody", retry=None) as nobody:
        made = factory_of(checkpoint, WeightCache(nobody)).network("tiny", checkpoint.digest, FLAT)
    assert not made.cached


@pytest.mark.parametrize(("model", "digest"), [("other", None), ("tiny", "0" * 64)])
def test_a_checkpoint_that_is_not_there_is_refused(
    checkpoint: Checkpoint, context: WorkerContext, model: str, digest: str | None
) -> None:
    with pytest.raises(ModelUnknown):
        context.factory.network(model, digest or checkpoint.digest, FLAT)


class Counts:
    """(hits, misses, generations) since the last look."""

    def __init__(self) -> None:
        self._seen = self._now()

    def new(self) -> tuple[int, ...]:
        before, self._seen = self._seen, self._now()
        return tuple(round(now - then) for now, then in zip(self._seen, before, strict=True))

    @staticmethod
    def _now() -> tuple[float, ...]:
        names = ("cache_hits_total", "cache_misses_total", "generation_seconds_count")
        return tuple(REGISTRY.get_sample_value(f"unet_factory_weight_{name}") or 0.0 for name in names)


def request_of(checkpoint: Checkpoint, snapped: SnappedSpacing) -> GenerationRequest:
    return GenerationRequest(model="tiny", checkpoint_digest=checkpoint.digest, snapped_um=tuple(snapped))


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
