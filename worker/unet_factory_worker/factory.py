"""Networks ready to run: from the device's own LRU, else from the cache in Redis, else made by the hypernetwork."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from redis.exceptions import RedisError

from unet_factory.domain.conditions import SnappedConditions
from unet_factory.domain.errors import FactoryError, OutOfMemory
from unet_factory.domain.jobs import GenerationRequest, Problem
from unet_factory.domain.problems import UNEXPECTED, problem_of
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.jobs.queue import NetworkOrders
from unet_factory.model.checkpoint import Checkpoint, parse_unet, standalone_bytes
from unet_factory.model.device import is_out_of_memory, release_memory
from unet_factory.model.ensemble import SegmentingNetwork, joined
from unet_factory.platform import metrics
from unet_factory.platform.logs import safe_traceback
from unet_factory.platform.redis_clients import log_level
from unet_factory.platform.weight_cache import WeightCache, network_identity, weight_key

log = logging.getLogger(__name__)


class ReadyNetwork(NamedTuple):
    """A network on the device, and whether it was there before it was asked for. An ensemble's members are one."""

    unet: SegmentingNetwork
    cached: bool


class WeightFactory:
    """One per worker. ``checkpoint_of`` gives the checkpoint of a model's name and digest, on the device."""

    def __init__(
        self,
        checkpoint_of: Callable[[str, str], Checkpoint],
        cache: WeightCache,
        orders: NetworkOrders,
        device: torch.device,
        capacity: int,
    ) -> None:
        self._checkpoint_of, self._cache, self._orders = checkpoint_of, cache, orders
        self._device, self._capacity = device, capacity
        self._ready: OrderedDict[str, SegmentingNetwork] = OrderedDict()

    def checkpoint(self, model: str, digest: str) -> Checkpoint:
        """
        Raises:
            ModelUnknown: this worker cannot have that very checkpoint.
        """
        return self._checkpoint_of(model, digest)

    def network(
        self, model: str, digest: str, snapped: SnappedSpacing, conditions: SnappedConditions = ()
    ) -> ReadyNetwork:
        """The float32 network of a checkpoint for a snapped spacing and its conditions.

        Made from the very bytes that ``GET /unet`` hands out, so the two cannot differ.

        Raises:
            ModelUnknown: as :meth:`checkpoint`.
        """
        checkpoint = self.checkpoint(model, digest)
        request = GenerationRequest(
            model=model, checkpoint_digest=digest, snapped_um=tuple(snapped), conditions=conditions
        )
        key = weight_key(request)
        if unet := self._ready.get(key):
            self._ready.move_to_end(key)
            metrics.WEIGHT_CACHE_HITS.inc()
            return ReadyNetwork(unet, cached=True)
        found = self._joined(checkpoint, request, self._device)
        self._ready[key] = found.unet
        while len(self._ready) > self._capacity:
            self._ready.popitem(last=False)
        return found

    def network_on(
        self,
        device: torch.device,
        model: str,
        digest: str,
        snapped: SnappedSpacing,
        conditions: SnappedConditions = (),
    ) -> SegmentingNetwork:
        """As :meth:`network`; on another device than the worker's it is made for this once."""
        if device == self._device:
            return self.network(model, digest, snapped, conditions).unet
        request = GenerationRequest(
            model=model, checkpoint_digest=digest, snapped_um=tuple(snapped), conditions=conditions
        )
        return self._joined(self.checkpoint(model, digest), request, device).unet

    def publish(self, request: GenerationRequest) -> None:
        """Put a standalone network into Redis and wake those who wait for it, or tell them why it cannot be made.

        Raises nothing. A Redis that is away by then is logged; whoever waits orders it again.
        """
        problem = self._problem_of_publishing(request)
        try:
            if problem is not None:
                self._cache.fail(request, problem.model_dump_json())
            self._orders.done(request)
        except RedisError as error:
            log.warning("the end of a network's generation could not be recorded: %s", type(error).__name__)

    def forget_networks(self) -> None:
        """Free the device memory of all networks that nobody runs."""
        self._ready.clear()

    def _problem_of_publishing(self, request: GenerationRequest) -> Problem | None:
        try:
            checkpoint = self.checkpoint(request.model, request.checkpoint_digest)
            self._cache.put(request, self._cached(request) or self._generate(checkpoint, request))
        except FactoryError as error:
            log.warning("generation refused: %s", error.slug)
            return problem_of(error)
        except Exception as error:
            log.error("generation failed\n%s", safe_traceback(error))
            if not is_out_of_memory(error):
                return UNEXPECTED
        else:
            return None
        self.forget_networks()
        release_memory(self._device)
        return problem_of(
            OutOfMemory(f"the memory of {self._device} is too small for the network at the moment; try again")
        )

    def _joined(self, checkpoint: Checkpoint, request: GenerationRequest, device: torch.device) -> ReadyNetwork:
        """Of all members; it was there before if Redis had every one of them."""
        requests = [request.model_copy(update={"member": number}) for number in checkpoint.manifest.member_numbers]
        blobs, cached = zip(*(self._found_or_made(checkpoint, one) for one in requests), strict=True)
        return ReadyNetwork(joined([parse_unet(blob, device) for blob in blobs]), all(cached))

    def _found_or_made(self, checkpoint: Checkpoint, request: GenerationRequest) -> tuple[bytes, bool]:
        """The bytes of a standalone file, and whether Redis had them."""
        if (found := self._cached(request)) is not None:
            return found, True
        blob = self._generate(checkpoint, request)
        self._keep(request, blob)
        return blob, False

    def _cached(self, request: GenerationRequest) -> bytes | None:
        """The bytes of a standalone file, if Redis has them; a cache out of order costs time, not the job."""
        try:
            found = self._cache.get(request)
        except RedisError as error:
            log.log(log_level(error), "the weight cache cannot be read: %s", type(error).__name__)
            found = None
        (metrics.WEIGHT_CACHE_MISSES if found is None else metrics.WEIGHT_CACHE_HITS).inc()
        return None if found is None else found.blob

    def _keep(self, request: GenerationRequest, blob: bytes) -> None:
        try:
            self._cache.put(request, blob)
        except RedisError as error:
            log.log(log_level(error), "the weight cache cannot be written: %s", type(error).__name__)

    def _generate(self, checkpoint: Checkpoint, request: GenerationRequest) -> bytes:
        started = time.perf_counter()
        snapped = SnappedSpacing(*request.snapped_um)
        blob = standalone_bytes(checkpoint, snapped, request.dtype, request.conditions, request.member)
        if request.format != "safetensors":
            from unet_factory.model.formats import in_format  # what it needs is slow to import, and seldom wanted

            blob = in_format(blob, request.format, network_identity(request))
        metrics.WEIGHT_GENERATION_SECONDS.observe(time.perf_counter() - started)
        return blob
