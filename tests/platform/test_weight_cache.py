"""What lies in the cache under a network's key, and was not written by us, is made again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from redis import Redis
from safetensors.numpy import save

from unet_factory.domain.jobs import GenerationRequest
from unet_factory.domain.manifest import Architecture, Label, Preprocessing, StandaloneManifest
from unet_factory.platform.manifest_file import MANIFEST_KEY
from unet_factory.platform.weight_cache import WeightCache, weight_key

WANTED = GenerationRequest(model="tiny", checkpoint_digest="ab" * 32, snapped_um=(1000, 500, 500))


@pytest.mark.parametrize("command", [("LPUSH", "x"), ("HSET", "x", "y"), ("SADD", "x"), ("SET", "short"), ("SET", "")])
def test_foreign_values_are_removed_and_count_as_absent(redis: Redis, command: tuple[Any, ...]) -> None:
    redis.execute_command(command[0], weight_key(WANTED), *command[1:])  # type: ignore[no-untyped-call]
    cache = WeightCache(redis)
    assert cache.get(WANTED) is None
    assert not redis.exists(weight_key(WANTED))
    made = cache.put(WANTED, standalone(WANTED))
    assert cache.get(WANTED) == made


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint_digest": "cd" * 32},
        {"snapped_um": (1000, 500, 550)},
        {"dtype": "float16"},
        {"model": "other"},
        {"conditions": (3.0,)},
    ],
)
def test_another_network_under_a_fitting_digest_is_not_served(redis: Redis, change: dict[str, Any]) -> None:
    other = WANTED.model_copy(update=change)
    cache = WeightCache(redis)
    cache.put(WANTED, standalone(other))
    assert cache.get(WANTED) is None
    assert not redis.exists(weight_key(WANTED))
    assert cache.put(other, standalone(other)) == cache.get(other)


@pytest.mark.parametrize(
    "damage",
    [
        lambda blob: b"garbage",
        lambda blob: bytes(len(blob)),
        lambda blob: blob[:-1],
        lambda blob: blob + b"x",
        lambda blob: (2).to_bytes(8, "little") + b"[]",
        lambda blob: (13).to_bytes(8, "little") + b'{"tensor": 1}',
    ],
)
def test_garbage_under_a_fitting_digest_is_not_served(redis: Redis, damage: Callable[[bytes], bytes]) -> None:
    cache = WeightCache(redis)
    cache.put(WANTED, damage(standalone(WANTED)))
    assert cache.get(WANTED) is None
    assert not redis.exists(weight_key(WANTED))


def standalone(request: GenerationRequest) -> bytes:
    """A whole file whose manifest describes the request's network; its one tensor is all zeros."""
    manifest = StandaloneManifest(
        model=request.model,
        checkpoint_digest=request.checkpoint_digest,
        architecture=Architecture(classes=2, channels=(4, 8), blocks=1),
        snapped_um=request.snapped_um,
        dtype=request.dtype,
        conditions={f"condition-{number}": value for number, value in enumerate(request.conditions)},
        labels=(Label(value=0, name="background"), Label(value=1, name="organ")),
        preprocessing=Preprocessing(),
        window=(32, 32, 32),
        licence="CC0-1.0",
    )
    return save({"tensor": np.zeros(8, np.float32)}, {MANIFEST_KEY: manifest.model_dump_json()})
