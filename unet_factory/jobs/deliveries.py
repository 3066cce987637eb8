"""Deliveries in Redis: what couriers do for jobs at other systems, at least once each, however often one is killed.

A delivery lives inside its job's hash, so it comes and goes with the job, and the script that makes a job final makes
its deliveries due: neither happens without the other. Each destination has a queue of its own, a sorted set of delivery
ids (``JOB-NAME``; ``fetch``, or a number) by the time of their next attempt. Claiming one moves that time to the end of
a lease: a courier that dies hands it back by doing nothing.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redis import Redis

from unet_factory.domain.errors import DeliveryUnknown
from unet_factory.domain.jobs import Delivery, DeliveryKind, DeliveryState
from unet_factory.jobs.keys import DEAD_DELIVERIES, DELIVERY_QUEUES, FETCH, delivery_field, delivery_queue, job_key
from unet_factory.jobs.scripts import lua

_ID = re.compile(r"([0-9a-f]{32})-(fetch|\d{1,3})")


@dataclass(frozen=True)
class ClaimedDelivery:
    """A delivery in a courier's hands. ``id`` stays the same over all attempts."""

    id: str
    owner: str
    delivery: Delivery
    tried_for_s: float
    """How long before this attempt the first one began."""

    @property
    def job_id(self) -> str:
        return job_of(self.id)


class DeliveryStore:
    """Synchronous; safe to share between threads. Times are the server's, so that couriers need no common clock."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._claim = redis.register_script(lua("claim_delivery"))
        self._renew = redis.register_script(lua("renew_delivery"))
        self._settle = redis.register_script(lua("settle_delivery"))
        self._replay = redis.register_script(lua("replay_delivery"))

    def queues(self) -> list[str]:
        """One per kind and destination that may have something to do; to be handed to :meth:`claim`."""
        members: Any = self._redis.smembers(DELIVERY_QUEUES)
        return sorted(member.decode() for member in members)

    def claim(self, queue: str, owner: str, lease_s: float) -> ClaimedDelivery | None:
        """The delivery that has been due longest, now the owner's for ``lease_s``; counts the attempt."""
        found: Any = self._claim(keys=[queue], args=[owner, round(lease_s * 1000)])
        if not found:
            return None
        return ClaimedDelivery(found[0].decode(), owner, Delivery.model_validate_json(found[1]), float(found[2]))

    def renew(self, claimed: ClaimedDelivery, lease_s: float) -> bool:
        """Hold on to it; False when it was lost or withdrawn."""
        arguments: list[str | int] = [claimed.id, claimed.owner, round(lease_s * 1000)]
        return bool(self._renew(keys=[delivery_queue(claimed.delivery)], args=arguments))

    def deliver(self, claimed: ClaimedDelivery) -> bool:
        """Record it as done; False if the owner has lost it, in which case it may have been delivered twice."""
        return self._settled(claimed, state=DeliveryState.DELIVERED, last_error=None)

    def skip(self, claimed: ClaimedDelivery, reason: str) -> bool:
        """There is nothing to do."""
        return self._settled(claimed, state=DeliveryState.SKIPPED, last_error=reason)

    def bury(self, claimed: ClaimedDelivery, reason: str) -> bool:
        """It is given up; a delivery can be replayed as long as its job is kept."""
        return self._settled(claimed, state=DeliveryState.DEAD, last_error=reason)

    def postpone(self, claimed: ClaimedDelivery, reason: str, delay_s: float) -> bool:
        """It failed, and will be tried again."""
        return self._settled(claimed, delay_s, last_error=reason)

    def replay(self, delivery_id: str) -> Delivery:
        """Make a dead (or delivered, or waiting) delivery due now; one in a courier's hands stays there.

        Raises:
            DeliveryUnknown: no delivery has that id.
        """
        value: Any = self._replay(args=[delivery_id]) if is_delivery_id(delivery_id) else None
        if not value:
            raise DeliveryUnknown(f"there is no delivery {delivery_id[:100]!r}; an id is a job's with a number: ID-0")
        return Delivery.model_validate_json(value)

    def listed(self, state: DeliveryState, limit: int) -> list[tuple[str, Delivery]]:
        """(id, delivery) of those that are dead or pending, the oldest first."""
        keys = (
            [DEAD_DELIVERIES]
            if state is DeliveryState.DEAD
            else [queue for queue in self.queues() if not _is_fetch(queue)]
        )
        ids = [entry.decode() for key in keys for entry in self._range(key, limit)][:limit]
        with self._redis.pipeline(transaction=False) as pipeline:
            for delivery_id in ids:
                pipeline.hget(job_key(job_of(delivery_id)), delivery_field(delivery_id[33:]))
            values = pipeline.execute()
        return [
            (delivery_id, Delivery.model_validate_json(value))
            for delivery_id, value in zip(ids, values, strict=True)
            if value is not None  # purged in this moment
        ]

    def pending(self) -> dict[DeliveryKind, int]:
        """How many deliveries of each kind are due or wait for another attempt."""
        counts = dict.fromkeys(DeliveryKind, 0)
        for queue in self.queues():
            size: Any = self._redis.zcard(queue)
            counts[DeliveryKind(queue.split(":")[2])] += size
        return counts

    def _range(self, key: str, limit: int) -> Iterable[bytes]:
        entries: Any = self._redis.zrange(key, 0, limit - 1)
        return list(entries)

    def _settled(self, claimed: ClaimedDelivery, delay_s: float | None = None, **changes: Any) -> bool:
        delivery = claimed.delivery.model_copy(update={"next_attempt": None, "lost": 0, **changes})
        delay = "" if delay_s is None else repr(delay_s)
        arguments = [claimed.id, claimed.owner, delivery.model_dump_json(), delay]
        return bool(self._settle(keys=[delivery_queue(claimed.delivery)], args=arguments))


def job_of(delivery_id: str) -> str:
    return delivery_id[:32]


def is_delivery_id(text: str) -> bool:
    matched = _ID.fullmatch(text)
    return matched is not None and matched[2] != FETCH


def _is_fetch(queue: str) -> bool:
    return queue.split(":")[2] == DeliveryKind.FETCH
