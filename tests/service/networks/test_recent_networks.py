"""The gateway's own copies: what the cache holds now and nothing else, read once, and never for a HEAD or a 304."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from redis import Redis

from tests.platform.test_weight_cache import standalone
from unet_factory.domain.jobs import GenerationRequest
from unet_factory.platform.weight_cache import CachedWeights, WeightCache, weight_key
from unet_factory_service.networks.recent import RecentNetworks

URL = "/unet?spacing=1,0.5,0.5"
FIRST, SECOND, THIRD = (
    GenerationRequest(model="tiny", checkpoint_digest="ab" * 32, snapped_um=(1000, 500, um)) for um in (500, 550, 600)
)


@contextmanager
def blobs_read(redis: Redis) -> Iterator[list[str]]:
    """The whole values that somebody got from the server during the block."""
    before = _gets(redis)
    found: list[str] = []
    yield found
    found += ["GET"] * (_gets(redis) - before)


def _gets(redis: Redis) -> int:
    statistics: dict[str, dict[str, int]] = redis.info("commandstats")
    return statistics.get("cmdstat_get", {}).get("calls", 0)


def test_a_network_is_read_once_however_many_ask(redis: Redis) -> None:
    cache = WeightCache(redis)
    made = cache.put(FIRST, standalone(FIRST))
    networks = RecentNetworks(cache, 2**20)
    with blobs_read(redis) as read, ThreadPoolExecutor(16) as askers:
        assert set(askers.map(networks.get, [FIRST] * 64)) == {made}
    assert len(read) == 1


def test_what_the_cache_dropped_or_replaced_is_served_no_more(redis: Redis) -> None:
    cache = WeightCache(redis)
    networks = RecentNetworks(cache, 2**20)
    cache.put(FIRST, standalone(FIRST))
    assert networks.get(FIRST) is not None
    cache.drop([weight_key(FIRST)])
    assert networks.get(FIRST) is None
    again = cache.put(FIRST, standalone(FIRST) + b"")
    assert networks.get(FIRST) == again
    blob = _with_other_weights(standalone(FIRST))
    replaced = cache.put(FIRST, blob)
    assert networks.get(FIRST) == replaced == CachedWeights(blob, hashlib.sha256(blob).hexdigest())


def test_those_used_longest_ago_go_first(redis: Redis) -> None:
    cache = WeightCache(redis)
    for request in (FIRST, SECOND, THIRD):
        cache.put(request, standalone(request))
    networks = RecentNetworks(cache, 2 * len(standalone(FIRST)))
    for request in (FIRST, SECOND, FIRST, THIRD):  # the second is the one used longest ago
        assert networks.get(request) == cache.get(request)
    with blobs_read(redis) as read:
        networks.get(FIRST)
        networks.get(THIRD)
    assert read == []
    with blobs_read(redis) as read:
        networks.get(SECOND)
    assert len(read) == 1


@pytest.mark.parametrize("allowed", [0, 10])
def test_one_too_large_to_keep_is_served_all_the_same(redis: Redis, allowed: int) -> None:
    cache = WeightCache(redis)
    made = cache.put(FIRST, standalone(FIRST))
    networks = RecentNetworks(cache, allowed)
    assert networks.get(FIRST) == networks.get(FIRST) == made


@pytest.mark.parametrize(("method", "known"), [("HEAD", False), ("HEAD", True), ("GET", True)])
def test_an_answer_without_content_reads_none(
    http: httpx.Client, redis: Redis, digest: str, method: str, known: bool
) -> None:
    request = GenerationRequest(model="tiny", checkpoint_digest=digest, snapped_um=(1000, 500, 500))
    made = WeightCache(redis).put(request, standalone(request))
    headers = {"If-None-Match": f'"{made.sha256}"'} if known else {}
    with blobs_read(redis) as read:
        answer = http.request(method, URL, headers=headers)
    assert answer.status_code == (304 if known else 200)
    assert answer.headers["ETag"] == f'"{made.sha256}"'
    assert known or answer.headers["Content-Length"] == str(made.size)
    assert read == []


def test_a_network_with_other_bytes_than_it_was_known_by_comes_whole(
    http: httpx.Client, redis: Redis, digest: str
) -> None:
    request = GenerationRequest(model="tiny", checkpoint_digest=digest, snapped_um=(1000, 500, 500))
    cache = WeightCache(redis)
    first = cache.put(request, standalone(request))
    assert http.get(URL).content == first.blob
    second = cache.put(request, _with_other_weights(standalone(request)))
    answer = http.get(URL, headers={"If-None-Match": f'"{first.sha256}"'})
    assert (answer.status_code, answer.content) == (200, second.blob)


def _with_other_weights(blob: bytes) -> bytes:
    return blob[:-4] + b"\x00\x00\x80\x3f"
