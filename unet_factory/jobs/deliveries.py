"""Deliveries in Redis: what couriers do for jobs at other systems, at least once each, however often one is killed.

A delivery lives inside its job's hash (field ``errand.NAME``; ``fetch``, or a number for a delivery), so it comes and
goes with the job, and the script that makes a job final makes its deliveries due: neither happens without the other.
Each destination has a queue of its own, ``outbox:due:KIND:DESTINATION``, a sorted set of delivery ids (``JOB-NAME``) by
the time of their next attempt. Claiming one moves that time to the end of a lease: a courier that dies hands it back by
doing nothing. Further keys: ``outbox:queues`` (those that may hold something), ``outbox:lease:ID`` (owner),
``outbox:dead`` (ids by the time of their death).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redis import Redis

from unet_factory.domain.errors import DeliveryUnknown
from unet_factory.domain.jobs import Delivery, DeliveryKind, DeliveryState

FETCH = "fetch"
QUEUES = "outbox:queues"
DEAD = "outbox:dead"

_ID = re.compile(r"([0-9a-f]{32})-(fetch|\d{1,3})")

# Scripts of the job store append this one, with KEYS[1] a job's hash: a job that is final now has its deliveries due.
MAKE_DUE_WHEN_FINAL = """
local function queue_of(delivery) return 'outbox:due:' .. delivery.kind .. ':' .. delivery.destination end
local ended = redis.call('HGET', KEYS[1], 'state')
if ended and ended ~= '"queued"' and ended ~= '"running"' then
    local time = redis.call('TIME')
    local fields = redis.call('HGETALL', KEYS[1])
    for i = 1, #fields, 2 do
        local name = string.match(fields[i], '^errand%.(%d+)$')
        if name then
            local queue = queue_of(cjson.decode(fields[i + 1]))
            redis.call('ZADD', queue, time[1] + time[2] / 1e6, string.sub(KEYS[1], 5) .. '-' .. name)
            redis.call('SADD', 'outbox:queues', queue)
        end
    end
end
"""
# KEYS: job hash. Takes what a job has here out of the queues; the job store runs it before it drops the hash.
WITHDRAW = """
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
    local name = string.match(fields[i], '^errand%.(%w+)$')
    if name then
        local delivery, id = cjson.decode(fields[i + 1]), string.sub(KEYS[1], 5) .. '-' .. name
        redis.call('ZREM', 'outbox:due:' .. delivery.kind .. ':' .. delivery.destination, id)
        redis.call('ZREM', 'outbox:dead', id)
        redis.call('DEL', 'outbox:lease:' .. id)
    end
end
"""
_NOW = "local time = redis.call('TIME'); local now = time[1] + time[2] / 1e6\n"
_PLACE = "local job, field = 'job:' .. string.sub(ARGV[1], 1, 32), 'errand.' .. string.sub(ARGV[1], 34)\n"
# KEYS: queue. ARGV: owner, lease ms. Returns the id and the delivery, its attempt counted, or nothing. While it is held
# it has no next attempt; whoever finds it due like that knows that the last courier was lost.
_CLAIM = (
    _NOW
    + """
local id = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)[1]
if not id then
    if redis.call('ZCARD', KEYS[1]) == 0 then redis.call('SREM', 'outbox:queues', KEYS[1]) end
    return false
end
local job, field = 'job:' .. string.sub(id, 1, 32), 'errand.' .. string.sub(id, 34)
local value = redis.call('HGET', job, field)
if not value then redis.call('ZREM', KEYS[1], id) return false end
local delivery = cjson.decode(value)
if delivery.attempts > 0 and delivery.next_attempt == cjson.null then delivery.lost = delivery.lost + 1 end
delivery.attempts, delivery.next_attempt = delivery.attempts + 1, cjson.null
if delivery.since == cjson.null then delivery.since = now end
value = cjson.encode(delivery)
redis.call('HSET', job, field, value)
redis.call('ZADD', KEYS[1], now + ARGV[2] / 1000, id)
redis.call('SET', 'outbox:lease:' .. id, ARGV[1], 'PX', ARGV[2])
return {id, value}
"""
)
# KEYS: queue. ARGV: id, owner, lease ms. Returns 1 while the owner still holds it.
_RENEW = (
    _NOW
    + """
if redis.call('GET', 'outbox:lease:' .. ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('ZADD', KEYS[1], 'XX', now + ARGV[3] / 1000, ARGV[1])
return redis.call('PEXPIRE', 'outbox:lease:' .. ARGV[1], ARGV[3])
"""
)
# KEYS: queue. ARGV: id, owner, delivery, seconds until the next attempt (empty: there is none). For the owner alone.
# Once one got through, the destination is back: whatever waits there for a later attempt is due at once.
_SETTLE = (
    _NOW
    + _PLACE
    + """
if redis.call('GET', 'outbox:lease:' .. ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('DEL', 'outbox:lease:' .. ARGV[1])
if redis.call('HEXISTS', job, field) == 0 then redis.call('ZREM', KEYS[1], ARGV[1]) return 0 end
local delivery = cjson.decode(ARGV[3])
if ARGV[4] == '' then
    redis.call('ZREM', KEYS[1], ARGV[1])
else
    delivery.next_attempt = now + ARGV[4]
    redis.call('ZADD', KEYS[1], delivery.next_attempt, ARGV[1])
end
if delivery.state == 'dead' and delivery.kind ~= 'fetch' then redis.call('ZADD', 'outbox:dead', now, ARGV[1]) end
if delivery.state == 'delivered' then
    for _, waiting in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf', 'LIMIT', 0, 1000)) do
        if redis.call('EXISTS', 'outbox:lease:' .. waiting) == 0 then redis.call('ZADD', KEYS[1], now, waiting) end
    end
end
redis.call('HSET', job, field, cjson.encode(delivery))
return 1
"""
)
# ARGV: id. Returns the delivery as it is then, or nothing; one that nobody may replay is left as it is.
_REPLAY = (
    _NOW
    + _PLACE
    + """
local value = redis.call('HGET', job, field)
if not value then return false end
local delivery = cjson.decode(value)
local state = redis.call('HGET', job, 'state')
if delivery.state == 'skipped' or state == '"queued"' or state == '"running"' then return value end
if redis.call('EXISTS', 'outbox:lease:' .. ARGV[1]) == 1 then return value end
delivery.state, delivery.attempts, delivery.lost = 'pending', 0, 0
delivery.next_attempt, delivery.since = now, cjson.null
value = cjson.encode(delivery)
redis.call('HSET', job, field, value)
local queue = 'outbox:due:' .. delivery.kind .. ':' .. delivery.destination
redis.call('ZADD', queue, now, ARGV[1])
redis.call('SADD', 'outbox:queues', queue)
redis.call('ZREM', 'outbox:dead', ARGV[1])
return value
"""
)


@dataclass(frozen=True)
class ClaimedDelivery:
    """A delivery in a courier's hands. ``id`` stays the same over all attempts."""

    id: str
    owner: str
    delivery: Delivery

    @property
    def job_id(self) -> str:
        return job_of(self.id)


class DeliveryStore:
    """Synchronous; safe to share between threads. Times are the server's, so that couriers need no common clock."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._claim = redis.register_script(_CLAIM)
        self._renew = redis.register_script(_RENEW)
        self._settle = redis.register_script(_SETTLE)
        self._replay = redis.register_script(_REPLAY)

    def queues(self) -> list[str]:
        """One per kind and destination that may have something to do; to be handed to :meth:`claim`."""
        members: Any = self._redis.smembers(QUEUES)
        return sorted(member.decode() for member in members)

    def claim(self, queue: str, owner: str, lease_s: float) -> ClaimedDelivery | None:
        """The delivery that has been due longest, now the owner's for ``lease_s``; counts the attempt."""
        found: Any = self._claim(keys=[queue], args=[owner, round(lease_s * 1000)])
        if not found:
            return None
        return ClaimedDelivery(found[0].decode(), owner, Delivery.model_validate_json(found[1]))

    def renew(self, claimed: ClaimedDelivery, lease_s: float) -> bool:
        """Hold on to it; False when it was lost or withdrawn."""
        arguments: list[str | int] = [claimed.id, claimed.owner, round(lease_s * 1000)]
        return bool(self._renew(keys=[queue_of(claimed.delivery)], args=arguments))

    def deliver(self, claimed: ClaimedDelivery) -> bool:
        """It is done; False when it is no longer the owner's, who may then have been the second to do it."""
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
            DeliveryUnknown: there is none of that id.
        """
        value: Any = self._replay(keys=[], args=[delivery_id]) if is_delivery_id(delivery_id) else None
        if not value:
            raise DeliveryUnknown(f"there is no delivery {delivery_id[:100]!r}; an id is a job's with a number: ID-0")
        return Delivery.model_validate_json(value)

    def listed(self, state: DeliveryState, limit: int) -> list[tuple[str, Delivery]]:
        """(id, delivery) of those that are dead or pending, the oldest first."""
        keys = [DEAD] if state is DeliveryState.DEAD else [queue for queue in self.queues() if not _is_fetch(queue)]
        ids = [entry.decode() for key in keys for entry in self._range(key, limit)][:limit]
        with self._redis.pipeline(transaction=False) as pipeline:
            for delivery_id in ids:
                pipeline.hget(f"job:{job_of(delivery_id)}", f"errand.{delivery_id[33:]}")
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
        return bool(self._settle(keys=[queue_of(claimed.delivery)], args=arguments))


def queue_of(delivery: Delivery) -> str:
    return f"outbox:due:{delivery.kind}:{delivery.destination}"


def job_of(delivery_id: str) -> str:
    return delivery_id[:32]


def is_delivery_id(text: str) -> bool:
    matched = _ID.fullmatch(text)
    return matched is not None and matched[2] != FETCH


def _is_fetch(queue: str) -> bool:
    return queue.split(":")[2] == DeliveryKind.FETCH
