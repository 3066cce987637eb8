"""What lies in the cache under a network's key, and was not written by us, is made again."""

from typing import Any

import pytest
from redis import Redis

from unet_factory.domain.jobs import GenerationRequest
from unet_factory.platform.weight_cache import WeightCache, weight_key

WANTED = GenerationRequest(model="tiny", checkpoint_digest="ab" * 32, snapped_um=(1000, 500, 500))


@pytest.mark.parametrize("command", [("LPUSH", "x"), ("HSET", "x", "y"), ("SADD", "x"), ("SET", "short"), ("SET", "")])
def test_foreign_values_are_removed_and_count_as_absent(redis: Redis, command: tuple[Any, ...]) -> None:
    redis.execute_command(command[0], weight_key(WANTED), *command[1:])  # type: ignore[no-untyped-call]
    cache = WeightCache(redis)
    assert cache.get(WANTED) is None
    assert not redis.exists(weight_key(WANTED))
    made = cache.put(WANTED, b"network")
    assert cache.get(WANTED) == made
