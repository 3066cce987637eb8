"""Jobs in Redis: one hash each, claimed by lease, so that a job outlives any worker and never runs twice to two ends.

Keys: ``job:ID`` (hash), ``jobs:active`` (not yet final; score: last claim or requeue), ``jobs:expiry`` (score: when to
purge), ``job:ID:lease`` (owner, ends by itself), ``job:ID:gone`` (tombstone: whose it was), ``idempotency:KEY``,
``jobs:uploads`` (final ones; score: since when), ``jobs:of:OWNER`` (whose jobs they are, while they are not final),
``jobs:purged`` (set after a purge, until the server has dropped the past from its own files);
``dicom:results`` (hash, job to a digest of its study): the gateway fills it, a purge empties it.
A job's deliveries are fields of its hash (see ``deliveries``): the script that makes a job final makes them due.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

from redis import Redis

from unet_factory.domain.errors import JobExpired, JobUnknown
from unet_factory.domain.jobs import Delivery, Job, JobState, Problem, SegmentationRequest
from unet_factory.jobs import scripts as job_scripts
from unet_factory.jobs.deliveries import FETCH, QUEUES, WITHDRAW, queue_of

TOMBSTONE_S = 7 * 24 * 3600
ACTIVE = "jobs:active"
EXPIRY = "jobs:expiry"
UPLOADS = "jobs:uploads"
PURGED = "jobs:purged"
_RESERVED_FOR_S = 120.0
_NOT_OF_THE_JOB = (b"request", b"owner", b"idempotency")  # fields of its hash that its asker is not told
_DELIVERY_FIELD = "errand."
DICOM_RESULTS = "dicom:results"


class JobStore:
    """Synchronous; safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._claim = redis.register_script(job_scripts.CLAIM)
        self._renew = redis.register_script(job_scripts.RENEW)
        self._write_as_owner = redis.register_script(job_scripts.WRITE_AS_OWNER)
        self._write_unless_final = redis.register_script(job_scripts.WRITE_UNLESS_FINAL)
        self._requeue = redis.register_script(job_scripts.REQUEUE)
        self._forget = redis.register_script(job_scripts.FORGET)
        self._keep = redis.register_script(job_scripts.KEEP)
        self._close_script = redis.register_script(job_scripts.CLOSE)
        self._reserve = redis.register_script(job_scripts.RESERVE)

    def create(
        self, job: Job, request: SegmentationRequest, *, owner: str = "", idempotency_key: str | None = None
    ) -> None:
        """Record a queued job; it is visible to the reaper from here on, so a lost message cannot lose it.

        One whose scan lies in an archive is visible to the couriers, and to the reaper once it was fetched.
        """
        with self._redis.pipeline(transaction=True) as pipeline:
            fields: dict[Any, Any] = {**_fields(job), "request": request.model_dump_json(), "owner": owner}
            if idempotency_key is not None:
                fields["idempotency"] = idempotency_key
            pipeline.hset(_key(job.id), mapping=fields)
            pipeline.zadd(ACTIVE, {job.id: time.time()})
            pipeline.zadd(EXPIRY, {job.id: job.expires})
            if owner:
                pipeline.zadd(_owner_key(owner), {job.id: time.time()})
            if job.fetch is not None:
                pipeline.zadd(queue_of(job.fetch), {f"{job.id}-{FETCH}": time.time()})
                pipeline.sadd(QUEUES, queue_of(job.fetch))
            pipeline.execute()

    def get(self, job_id: str) -> Job:
        """
        Raises:
            JobExpired: it was here once, and was purged.
            JobUnknown: it never was.
        """
        fields: Any = self._redis.hgetall(_key(job_id))
        if b"state" not in fields:
            if self._redis.exists(_gone_key(job_id)):
                raise JobExpired(f"job {job_id} has expired or was purged", id=job_id)
            raise JobUnknown(f"there is no job {job_id}", id=job_id)
        return _job(fields)

    def request(self, job_id: str) -> SegmentationRequest:
        """What the job was asked to do. Raises like :meth:`get`."""
        value: Any = self._redis.hget(_key(job_id), "request")
        if value is None:
            raise JobUnknown(f"there is no job {job_id}", id=job_id)
        return SegmentationRequest.model_validate_json(value)

    def owner(self, job_id: str) -> str:
        """Whose it is, or was before it was purged; empty where nobody had to say who they are.

        Raises:
            JobUnknown: it never was.
        """
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hget(_key(job_id), "owner")
            pipeline.exists(_key(job_id))
            pipeline.get(_gone_key(job_id))
            owner, exists, gone = pipeline.execute()
        if not exists and gone is None:
            raise JobUnknown(f"there is no job {job_id}", id=job_id)
        return str((owner or gone or b"").decode())

    def reserve(self, owner: str, job_id: str, allowed: int) -> bool:
        """Take a place among the owner's jobs in flight, for ``create`` to fill or ``release`` to give back.

        Returns:
            False when all are taken.
        """
        now = time.time()
        return bool(self._reserve(keys=[_owner_key(owner)], args=[job_id, allowed, now, now - _RESERVED_FOR_S]))

    def release(self, owner: str, job_id: str) -> None:
        """Give back the place of a job that could not be made."""
        self._redis.zrem(_owner_key(owner), job_id)

    def count_of(self, owner: str) -> int:
        """How many jobs the owner has in flight."""
        return int(self._redis.zcard(_owner_key(owner)))

    def claim(self, job_id: str, owner: str, lease_s: float) -> bool:
        """Take a queued job that nobody holds; counts the attempt. At most one owner at a time."""
        claimed = bool(self._claim(keys=[_key(job_id), _lease_key(job_id)], args=[owner, _ms(lease_s)]))
        if claimed:
            self._redis.zadd(ACTIVE, {job_id: time.time()})
            self._announce(job_id)
        return claimed

    def renew(self, job_id: str, owner: str, lease_s: float) -> bool:
        """Extend the lease; False when it was lost, and the work must stop."""
        return bool(self._renew(keys=[_lease_key(job_id)], args=[owner, _ms(lease_s)]))

    def update(self, job_id: str, owner: str, **fields: Any) -> bool:
        """Write fields of a running job, as its owner; False when it is no longer the owner's or already final."""
        written = bool(
            self._write_as_owner(keys=[_key(job_id), _lease_key(job_id)], args=[owner, *_flat(_encode(fields))])
        )
        if written:
            self._announce(job_id)
        return written

    def finish(self, job_id: str, owner: str, state: JobState, **fields: Any) -> bool:
        """The owner's last word; False when somebody else decided before."""
        written = self.update(job_id, owner, state=state, finished=time.time(), **fields)
        if written:
            self._close(job_id)
        return written

    def end(self, job_id: str, state: JobState, error: Problem | None = None) -> bool:
        """End a job from outside (cancel, give up); False when it was final already. Its worker notices at a window."""
        encoded = _encode({"state": state, "finished": time.time()} | ({"error": error} if error else {}))
        ended = bool(self._write_unless_final(keys=[_key(job_id)], args=_flat(encoded)))
        if ended:
            self._close(job_id)
            self._announce(job_id)
        return ended

    def describe(self, job_id: str, **fields: Any) -> bool:
        """Write what was learnt of a job that no worker has yet; False when it is final."""
        return bool(self._write_unless_final(keys=[_key(job_id)], args=_flat(_encode(fields))))

    def keep(self, job_id: str, until: float) -> None:
        """Let a job and its files last until then (seconds since the epoch), if they would not anyway."""
        self._keep(keys=[_key(job_id), EXPIRY], args=[until, job_id])

    def look_again(self, job_id: str, at: float) -> None:
        """Have a job that is due be told as due again at ``at`` (seconds since the epoch)."""
        self._redis.zadd(EXPIRY, {job_id: at}, xx=True)

    def requeue(self, job_id: str) -> bool:
        """Put a running job whose lease has ended back to queued."""
        requeued = bool(self._requeue(keys=[_key(job_id), _lease_key(job_id)]))
        if requeued:
            self._announce(job_id)
        return requeued

    def purge(self, job_id: str) -> None:
        """Forget a job, leaving a tombstone that only says that there was one."""
        found: Any = self._redis.hmget(_key(job_id), "state", "owner", "idempotency")
        state, owner, idempotency_key = ((value or b"").decode() for value in found)
        with self._redis.pipeline(transaction=True) as pipeline:
            if state:  # else it was purged before, and its tombstone stays
                pipeline.set(_gone_key(job_id), owner, ex=TOMBSTONE_S)
            pipeline.eval(job_scripts.SEAL, 1, f"idempotency:{idempotency_key}", f" {job_id}")
            pipeline.zrem(_owner_key(owner), job_id)
            pipeline.zrem(UPLOADS, job_id)
            pipeline.set(PURGED, b"1")
            pipeline.eval(WITHDRAW, 1, _key(job_id))
            pipeline.delete(_key(job_id), _lease_key(job_id))
            pipeline.hdel(DICOM_RESULTS, job_id)
            pipeline.zrem(ACTIVE, job_id)
            pipeline.zrem(EXPIRY, job_id)
            pipeline.execute()
        self._redis.publish(events_channel(job_id), b"purged")

    def leased(self, job_id: str) -> bool:
        return bool(self._redis.exists(_lease_key(job_id)))

    def active(self, untouched_s: float = 0.0) -> Iterator[Job]:
        """Jobs that are not final and were neither made, claimed nor requeued in the last ``untouched_s`` seconds."""
        raw_ids: Any = self._redis.zrangebyscore(ACTIVE, "-inf", time.time() - untouched_s)
        for raw in raw_ids:
            try:
                job = self.get(raw.decode())
            except (JobUnknown, JobExpired):
                self._redis.zrem(ACTIVE, raw)
                continue
            if job.state.final:  # whoever ended it was lost before closing it
                self._close(job.id)
            else:
                yield job

    def touch(self, job_id: str) -> None:
        """Note that a job was just sent to the queue (again)."""
        self._redis.zadd(ACTIVE, {job_id: time.time()}, xx=True)

    def count_active(self) -> int:
        return int(self._redis.zcard(ACTIVE))

    def due(self) -> list[str]:
        """Ids of the jobs whose time is over."""
        raw_ids: Any = self._redis.zrangebyscore(EXPIRY, "-inf", time.time())
        return [raw.decode() for raw in raw_ids]

    def uploads_since(self, final_for_s: float) -> list[str]:
        """Ids of the jobs that have been final for so long and still have their upload."""
        raw_ids: Any = self._redis.zrangebyscore(UPLOADS, "-inf", time.time() - final_for_s)
        return [raw.decode() for raw in raw_ids]

    def upload_gone(self, job_id: str) -> None:
        self._redis.zrem(UPLOADS, job_id)

    def remember(self, idempotency_key: str, fingerprint: str, job_id: str, ttl_s: float) -> tuple[str, str]:
        """(fingerprint, job id) first stored under an idempotency key: the given ones, or an earlier request's.

        Of a job that was purged, only its id is left.
        """
        key, value = f"idempotency:{idempotency_key}", f"{fingerprint} {job_id}"
        earlier: Any = self._redis.set(key, value, nx=True, get=True, ex=max(1, round(ttl_s)))
        stored = value if earlier is None else earlier.decode()
        first, second = stored.split(" ")
        return (fingerprint if first == job_scripts.SEALED else first), second

    def forget(self, idempotency_key: str, job_id: str) -> None:
        """Undo :meth:`remember` for the job of a request that was refused or died; another job's entry stays."""
        self._forget(keys=[f"idempotency:{idempotency_key}"], args=[f" {job_id}"])

    def _close(self, job_id: str) -> None:
        self._close_script(keys=[_key(job_id), ACTIVE, _lease_key(job_id), UPLOADS], args=[job_id, time.time()])

    def _announce(self, job_id: str) -> None:
        self._redis.publish(events_channel(job_id), b"changed")


def events_channel(job_id: str) -> str:
    """Something is published here whenever the job's record changes; read the record then."""
    return f"job:{job_id}:events"


def _key(job_id: str) -> str:
    return f"job:{job_id}"


def _lease_key(job_id: str) -> str:
    return f"job:{job_id}:lease"


def _owner_key(owner: str) -> str:
    return f"jobs:of:{owner}"


def _gone_key(job_id: str) -> str:
    return f"job:{job_id}:gone"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _fields(job: Job) -> dict[str, str]:
    deliveries: dict[str, Delivery] = {str(number): delivery for number, delivery in enumerate(job.deliveries)}
    if job.fetch is not None:
        deliveries[FETCH] = job.fetch
    own = job.model_dump(mode="json", exclude={"fetch", "deliveries"})
    return _encode(own) | {_DELIVERY_FIELD + name: delivery.model_dump_json() for name, delivery in deliveries.items()}


def _job(fields: dict[bytes, bytes]) -> Job:
    texts = {name.decode(): value for name, value in fields.items() if name not in _NOT_OF_THE_JOB}
    deliveries = {
        name.removeprefix(_DELIVERY_FIELD): texts.pop(name) for name in list(texts) if name.startswith(_DELIVERY_FIELD)
    }
    fetch = deliveries.pop(FETCH, None)
    return Job.model_validate(
        {name: json.loads(value) for name, value in texts.items()}
        | {"fetch": None if fetch is None else json.loads(fetch)}
        | {"deliveries": [json.loads(deliveries[number]) for number in sorted(deliveries, key=int)]}
    )


def _encode(fields: dict[str, Any]) -> dict[str, str]:
    def plain(value: Any) -> Any:
        return value.model_dump(mode="json") if hasattr(value, "model_dump") else value

    return {name: json.dumps(plain(value)) for name, value in fields.items()}


def _flat(fields: dict[str, str]) -> list[str]:
    return [part for item in fields.items() for part in item]
