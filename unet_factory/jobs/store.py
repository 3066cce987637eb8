"""Jobs as records in Redis: one hash each. What ends, purges or hands over a job is ``lifecycle``'s.

The names of all keys are in ``keys``.
"""

import json
from collections.abc import Sequence
from typing import Any

from redis import Redis

from unet_factory.domain.errors import JobExpired, JobUnknown
from unet_factory.domain.jobs import Delivery, Job, SegmentationRequest
from unet_factory.jobs.keys import (
    ACTIVE,
    EXPIRY,
    FETCH,
    UPLOADS,
    delivery_field,
    delivery_name,
    delivery_queue,
    idempotency_key,
    job_key,
    owner_key,
    stored_key,
    tombstone_key,
)
from unet_factory.jobs.scripts import lua

SEALED = "-"  # in place of an idempotency entry's fingerprint, once the job was purged

_RESERVED_FOR_S = 120.0
_NOT_OF_THE_JOB = {"request", "owner", "idempotency"}  # fields of its hash that its asker is not told


class JobStore:
    """Synchronous; safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._create = redis.register_script(lua("create_job"))
        self._update = redis.register_script(lua("update_job"))
        self._keep = redis.register_script(lua("keep_job"))
        self._reserve = redis.register_script(lua("reserve_place"))
        self._count_bytes = redis.register_script(lua("count_bytes"))
        self._forget = redis.register_script(lua("forget_idempotency"))

    def create(
        self,
        job: Job,
        request: SegmentationRequest,
        *,
        owner: str = "",
        idempotency_key: str | None = None,
        upload_bytes: int = 0,
        allowed_bytes: int = 0,
    ) -> bool:
        """Record a queued job; it is visible to the reaper from here on, so a lost message cannot lose it.

        One whose scan lies in an archive is visible to the couriers, and to the reaper once it was fetched.

        Args:
            upload_bytes: what its upload takes up.
            allowed_bytes: how much may be stored for the owner; 0: any number.

        Returns:
            False, and nothing is recorded, when more than ``allowed_bytes`` would be stored for the owner.
        """
        fields = {**_fields(job), "request": request.model_dump_json(), "owner": owner}
        if idempotency_key is not None:
            fields["idempotency"] = idempotency_key
        fetch_queue = delivery_queue(job.fetch) if job.fetch else ""
        limits = [upload_bytes, allowed_bytes]
        return bool(
            self._create(args=[job.id, job.expires, owner, fetch_queue, *limits, int(request.is_dicom), *flat(fields)])
        )

    def get(self, job_id: str) -> Job:
        """
        Raises:
            JobExpired: it was here once, and was purged.
            JobUnknown: it never was.
        """
        fields: Any = self._redis.hgetall(job_key(job_id))
        if b"state" not in fields:
            raise self._missing(job_id)
        return _job(_named(fields))

    def get_all(self, job_ids: Sequence[str]) -> list[Job]:
        """Several at one stroke, in the given order, without those that are not there."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hgetall(job_key(job_id))
            found: list[dict[bytes, bytes]] = pipeline.execute()
        return [_job(_named(fields)) for fields in found if b"state" in fields]

    def assignment(self, job_id: str) -> tuple[Job, SegmentationRequest]:
        """The job and what it was asked to do, as a worker needs them. Raises like :meth:`get`."""
        fields: Any = self._redis.hgetall(job_key(job_id))
        if b"state" not in fields:
            raise self._missing(job_id)
        return _job(_named(fields)), SegmentationRequest.model_validate_json(fields[b"request"])

    def request(self, job_id: str) -> SegmentationRequest:
        """What the job was asked to do. Raises like :meth:`get`."""
        value: Any = self._redis.hget(job_key(job_id), "request")
        if value is None:
            raise self._missing(job_id)
        return SegmentationRequest.model_validate_json(value)

    def owner(self, job_id: str) -> str:
        """Whose it is, or was before it was purged; empty where nobody had to say who they are.

        Raises:
            JobUnknown: it never was.
        """
        owner: Any = self._redis.hget(job_key(job_id), "owner")
        if owner is None:
            owner = self._redis.get(tombstone_key(job_id))
        if owner is None:
            raise JobUnknown(f"there is no job {job_id}", id=job_id)
        return str(owner.decode())

    def describe(self, job_id: str, **fields: Any) -> bool:
        """Write fields of a job that no worker has started yet; False if it has ended."""
        return bool(self._update(args=[job_id, "", *flat(encode(fields))]))

    def keep(self, job_id: str, for_s: float) -> None:
        """Let a job and its files last for so long from now, if they would not anyway."""
        self._keep(args=[job_id, for_s])

    def reserve(self, owner: str, job_id: str, allowed: int) -> bool:
        """Take a place among the owner's jobs in flight, for ``create`` to fill or ``release`` to give back.

        Returns:
            False when all are taken.
        """
        return bool(self._reserve(args=[owner, job_id, allowed, _RESERVED_FOR_S]))

    def release(self, owner: str, job_id: str) -> None:
        """Give back the place of a job that could not be made."""
        self._redis.zrem(owner_key(owner), job_id)

    def count_of(self, owner: str) -> int:
        """How many jobs the owner has in flight."""
        return int(self._redis.zcard(owner_key(owner)))

    def stored_bytes(self, owner: str) -> int:
        """How much is stored for the owner: uploads, results and received series."""
        sizes: Any = self._redis.hvals(stored_key(owner))
        return sum(map(int, sizes))

    def count_bytes(self, job_id: str, stored_bytes: int) -> None:
        """Note what a job takes up now; nothing is noted of one that was purged."""
        self._count_bytes(args=[job_id, stored_bytes])

    def count_active(self) -> int:
        """How many jobs wait or run."""
        return int(self._redis.zcard(ACTIVE))

    def active_ids(self) -> list[str]:
        """Jobs that have not ended, the one that was sent or claimed longest ago first."""
        return _ids(self._redis.zrange(ACTIVE, 0, -1))

    def expired_ids(self) -> list[str]:
        """Jobs whose time is over."""
        return _ids(self._redis.zrangebyscore(EXPIRY, "-inf", now_s(self._redis)))

    def uploads_since(self, ended_for_s: float) -> list[str]:
        """Jobs that ended so long ago and still have their upload."""
        return _ids(self._redis.zrangebyscore(UPLOADS, "-inf", now_s(self._redis) - ended_for_s))

    def upload_gone(self, job_id: str) -> None:
        self._redis.zrem(UPLOADS, job_id)

    def remember(self, key: str, fingerprint: str, job_id: str, ttl_s: float) -> tuple[str, str]:
        """(fingerprint, job id) first stored under an idempotency key: the given ones, or an earlier request's.

        Of a job that was purged, only its id is left.
        """
        value = f"{fingerprint} {job_id}"
        earlier: Any = self._redis.set(idempotency_key(key), value, nx=True, get=True, ex=max(1, round(ttl_s)))
        first, second = (value if earlier is None else earlier.decode()).split(" ")
        return (fingerprint if first == SEALED else first), second

    def forget(self, key: str, job_id: str) -> None:
        """Undo :meth:`remember` for the job of a request that was refused or died; another job's entry stays."""
        self._forget(args=[key, job_id])

    def _missing(self, job_id: str) -> JobExpired | JobUnknown:
        if self._redis.exists(tombstone_key(job_id)):
            return JobExpired(f"job {job_id} has expired or was purged", id=job_id)
        return JobUnknown(f"there is no job {job_id}", id=job_id)


def now_s(redis: Redis) -> float:
    """Seconds since the epoch by the server's clock, which all processes share."""
    seconds, microseconds = redis.time()
    return seconds + microseconds / 1e6


def encode(fields: dict[str, Any]) -> dict[str, str]:
    """Fields of a job as its hash holds them."""
    return {
        name: json.dumps(value, default=lambda model: model.model_dump(mode="json")) for name, value in fields.items()
    }


def flat(fields: dict[str, str]) -> list[str]:
    """Field, value, field, value, ..., as scripts take them."""
    return [part for item in fields.items() for part in item]


def _fields(job: Job) -> dict[str, str]:
    deliveries: dict[str, Delivery] = {str(number): delivery for number, delivery in enumerate(job.deliveries)}
    if job.fetch is not None:
        deliveries[FETCH] = job.fetch
    own = job.model_dump(mode="json", exclude={"fetch", "deliveries"})
    return encode(own) | {delivery_field(name): delivery.model_dump_json() for name, delivery in deliveries.items()}


def _named(fields: dict[bytes, bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in fields.items()}


def _job(fields: dict[str, bytes]) -> Job:
    own: dict[str, Any] = {}
    deliveries: dict[str, Any] = {}
    for field, value in fields.items():
        name = delivery_name(field)
        if name is not None:
            deliveries[name] = json.loads(value)
        elif field not in _NOT_OF_THE_JOB:
            own[field] = json.loads(value)
    fetch = deliveries.pop(FETCH, None)
    return Job.model_validate(
        own | {"fetch": fetch, "deliveries": [deliveries[number] for number in sorted(deliveries, key=int)]}
    )


def _ids(found: Any) -> list[str]:
    return [raw.decode() for raw in found]
