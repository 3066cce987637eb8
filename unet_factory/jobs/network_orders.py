"""Networks that callers ordered: how many are being made, and how many each caller's orders may keep in the cache.

Without these bounds one caller could have thousands made, which all segmentations would wait for, and whose bytes would
push out of the cache what everybody else uses.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from redis import Redis

from unet_factory.domain.jobs import GenerationRequest
from unet_factory.jobs.scripts import lua
from unet_factory.platform.weight_cache import NETWORK_TTL_S, weight_key

_BEING_MADE = "networks:being-made"
_LASTS_S = 300.0  # a place whose message was lost becomes free


class Taken(StrEnum):
    """Which places are all taken."""

    OWNER = "owner"
    ALL = "all"


class OrderLimits(NamedTuple):
    """0: any number. ``owner`` and ``in_all`` count networks being made, ``kept`` an owner's networks in the cache."""

    owner: int
    in_all: int
    kept: int


class NetworkOrders:
    """Synchronous; safe to share between threads. The owner is empty where no API keys are required."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._order = redis.register_script(lua("order_network"))

    def take(self, request: GenerationRequest, owner: str, limits: OrderLimits) -> Taken | Sequence[str]:
        """Take a place for a network until it is :meth:`done`.

        Returns:
            Which places are taken; else the keys of the owner's oldest networks, which the cache is to drop.
        """
        found: Any = self._order(
            keys=[_BEING_MADE, f"networks:of:{owner}"],
            args=[weight_key(request), owner, limits.owner, limits.in_all, _LASTS_S, limits.kept, NETWORK_TTL_S],
        )
        verdict, *dropped = (raw.decode() for raw in found)
        return Taken(verdict) if verdict else dropped

    def done(self, request: GenerationRequest) -> None:
        """It was made, or cannot be: its place is free."""
        self._redis.hdel(_BEING_MADE, weight_key(request))
