"""The networks that were fetched last, in the gateway's own memory: of Redis only their digests are asked then."""

import threading
from collections import OrderedDict

from unet_factory.domain.jobs import GenerationRequest
from unet_factory.platform.weight_cache import CachedWeights, WeightCache, weight_key


class RecentNetworks:
    """In front of ``cache``, at most ``max_bytes`` of networks, those used longest ago going first.

    Safe to share between threads. Networks are read from the cache one at a time, so that many who ask for the same one
    at once make a single copy of it.
    """

    def __init__(self, cache: WeightCache, max_bytes: int) -> None:
        self._cache, self._max_bytes = cache, max_bytes
        self._held: OrderedDict[str, CachedWeights] = OrderedDict()
        self._bytes = 0
        self._lock, self._reading = threading.Lock(), threading.Lock()

    def get(self, request: GenerationRequest) -> CachedWeights | None:
        """The network that the cache holds now, its bytes verified when they were read; None on a miss."""
        if (found := self._find(request)) is not None:
            return found
        with self._reading:
            if (found := self._find(request)) is not None:
                return found
            found = self._cache.get(request)
            if found is not None:
                self._hold(weight_key(request), found)
            return found

    def _find(self, request: GenerationRequest) -> CachedWeights | None:
        """What is held, if the cache still holds it too: it may have been dropped, or made anew."""
        key = weight_key(request)
        with self._lock:
            held = self._held.get(key)
        if held is None:
            return None
        if self._cache.digest(request) != held.sha256:
            self._forget(key)
            return None
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
        return held

    def _hold(self, key: str, network: CachedWeights) -> None:
        self._forget(key)
        with self._lock:
            self._held[key] = network
            self._bytes += network.size
            while self._bytes > self._max_bytes:
                self._bytes -= self._held.popitem(last=False)[1].size

    def _forget(self, key: str) -> None:
        with self._lock:
            if (held := self._held.pop(key, None)) is not None:
                self._bytes -= held.size
