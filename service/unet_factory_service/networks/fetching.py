"""A standalone network from the cache, or made by a worker: however many ask at once, one generation is ordered."""

import time
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from unet_factory.domain.errors import QueueUnavailable
from unet_factory.domain.jobs import GenerationRequest, Problem
from unet_factory.jobs.queue import OrderLimits, Taken
from unet_factory.platform.metrics import WEIGHT_CACHE_HITS
from unet_factory.platform.weight_cache import ready_channel
from unet_factory_service.dependencies import GatewayContext
from unet_factory_service.errors import NotReady, QueueFull, QuotaExceeded, StoredProblem
from unet_factory_service.operations.workers import has_worker_for

_RETRY_AFTER_S = 2

_Found = TypeVar("_Found")
Look = Callable[[GenerationRequest], _Found | None]
"""Looks into the cache, for a network or only for its record; None: it is not there."""


async def fetch_network(
    gateway: GatewayContext, look: Look[_Found], request: GenerationRequest, owner: str, wait_s: float
) -> _Found | None:
    """What ``look`` finds; None when it is still being made after ``wait_s``, or when the server is stopping.

    Raises:
        StoredProblem: a worker could not make it.
        NotReady: it is not in the cache, and no worker is there to make it.
        QuotaExceeded: it is not in the cache, and as many as are allowed are being made for the owner.
        QueueFull: as many as are allowed are being made in all.
    """
    deadline = time.monotonic() + wait_s
    network = await run_in_threadpool(look, request)
    if network is not None:
        WEIGHT_CACHE_HITS.inc()
        return network
    with gateway.wakeups.on(ready_channel(request)) as wakeup:
        while True:
            network = await run_in_threadpool(_find_or_order, gateway, look, request, owner)
            remaining_s = deadline - time.monotonic()
            if network is not None or remaining_s <= 0 or gateway.wakeups.closing:
                return network
            await wakeup.wait(remaining_s)


def _find_or_order(
    gateway: GatewayContext, look: Look[_Found], request: GenerationRequest, owner: str
) -> _Found | None:
    """Order it unless somebody has; again when that claim ended without an answer, as its worker may have died."""
    network = look(request)
    if network is not None:
        return network
    failure = gateway.cache.failure(request)
    if failure is not None:
        raise StoredProblem(Problem.model_validate_json(failure))
    if not has_worker_for(gateway, request.checkpoint_digest):
        raise NotReady("no worker with this model is running; try again")
    return _order(gateway, look, request, owner) if gateway.cache.claim_generation(request) else None


def _order(gateway: GatewayContext, look: Look[_Found], request: GenerationRequest, owner: str) -> _Found | None:
    network = look(request)  # it may have been finished between the look and the claim
    if network is not None:
        gateway.cache.abandon_generation(request)
        return network
    try:
        _take_place(gateway, request, owner)
        gateway.queue.send_generation(request)
    except (QueueUnavailable, QuotaExceeded, QueueFull):
        gateway.cache.abandon_generation(request)
        raise
    return None


def _take_place(gateway: GatewayContext, request: GenerationRequest, owner: str) -> None:
    settings = gateway.settings
    limits = OrderLimits(settings.key_ordered_networks, settings.max_ordered_networks, settings.key_cached_networks)
    taken = gateway.orders.take(request, owner, limits)
    if taken is Taken.OWNER:
        raise QuotaExceeded(
            f"{limits.owner} networks are being made for this API key, which is the most allowed at a time; try again",
            quota="networks-in-the-making",
            limit=limits.owner,
            retry_after_s=_RETRY_AFTER_S,
        )
    if taken is Taken.ALL:
        raise QueueFull(f"{limits.in_all} networks are being made, which is the most allowed", allowed=limits.in_all)
    gateway.cache.drop(taken)
