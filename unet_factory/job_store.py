"""Jobs in Redis: one hash each, claimed by lease, so that a job outlives any worker and never runs twice to two ends.

Keys: ``job:ID`` (hash), ``jobs:active`` (not yet final; score: last claim or requeue), ``jobs:expiry`` (score: when to
purge), ``job:ID:lease`` (owner, ends by itself), ``job:ID:gone`` (tombstone), ``idempotency:KEY``; of DICOM
results ``dicom:results`` (hash, job to study) and ``job:ID:dicom`` (what they are): the gateway fills, a purge empties.
A job's errands are fields of its hash (see ``outbox``): the script that makes a job final makes its deliveries due.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

from redis import Redis

from unet_factory.errors import JobExpired, JobUnknown
from unet_factory.jobs import Errand, Job, JobState, Problem, SegmentationRequest
from unet_factory.outbox import FETCH, MAKE_DUE_WHEN_FINAL, QUEUES, WITHDRAW, queue_of

TOMBSTONE_S = 7 * 24 * 3600
ACTIVE = "jobs:active"
EXPIRY = "jobs:expiry"
_ERRAND = "errand."
DICOM_RESULTS = "dicom:results"

# KEYS: job hash, lease. ARGV: owner, lease ms. Returns 1 when the owner now holds the job. Only a queued job can be
# claimed: a running one whose lease has ended comes back through the reaper alone, which caps the attempts.
_CLAIM = """
if redis.call('HGET', KEYS[1], 'state') ~= '"queued"' then return 0 end
if not redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'state', '"running"')
redis.call('HINCRBY', KEYS[1], 'attempts', 1)
return 1
"""
# KEYS: lease. ARGV: owner, lease ms. Returns 1 while the owner still holds it.
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
# KEYS: job hash, lease. ARGV: owner, field, value, ... Writes only for the owner of a job that is not final.
_WRITE_AS_OWNER = f"""
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= '"queued"' and state ~= '"running"' then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
{MAKE_DUE_WHEN_FINAL}
return 1
"""
# KEYS: job hash. ARGV: field, value, ... Moves a job that is not final yet, whoever holds it.
_WRITE_UNLESS_FINAL = f"""
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= '"queued"' and state ~= '"running"' then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
{MAKE_DUE_WHEN_FINAL}
return 1
"""
# KEYS: job hash, lease. Back to the queue, if nobody holds it.
_REQUEUE = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if redis.call('HGET', KEYS[1], 'state') ~= '"running"' then return 0 end
redis.call('HSET', KEYS[1], 'state', '"queued"', 'progress', '0.0')
return 1
"""
# KEYS: job hash, expiry set. ARGV: seconds since the epoch, the job's id. Keeps a job longer, never shorter.
_KEEP = """
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('HGET', KEYS[1], 'expires') + 0 >= ARGV[1] + 0 then return 0 end
redis.call('HSET', KEYS[1], 'expires', ARGV[1])
redis.call('ZADD', KEYS[2], 'XX', ARGV[1], ARGV[2])
return 1
"""
# KEYS: idempotency entry. ARGV: how the entry of the job to be forgotten ends.
_FORGET = """
local entry = redis.call('GET', KEYS[1])
if entry and string.sub(entry, -string.len(ARGV[1])) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


class JobStore:
    """Synchronous; safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._claim = redis.register_script(_CLAIM)
        self._renew = redis.register_script(_RENEW)
        self._write_as_owner = redis.register_script(_WRITE_AS_OWNER)
        self._write_unless_final = redis.register_script(_WRITE_UNLESS_FINAL)
        self._requeue = redis.register_script(_REQUEUE)
        self._forget = redis.register_script(_FORGET)
        self._keep = redis.register_script(_KEEP)

    def create(self, job: Job, request: SegmentationRequest) -> None:
        """Record a queued job; it is visible to the reaper from here on, so a lost message cannot lose it.

        One whose scan lies in an archive is visible to the couriers, and to the reaper once it was fetched.
        """
        with self._redis.pipeline(transaction=True) as pipeline:
            fields: dict[Any, Any] = {**_fields(job), "request": request.model_dump_json()}
            pipeline.hset(_key(job.id), mapping=fields)
            pipeline.zadd(ACTIVE, {job.id: time.time()})
            pipeline.zadd(EXPIRY, {job.id: job.expires})
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
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.set(_gone_key(job_id), b"1", ex=TOMBSTONE_S)
            pipeline.eval(WITHDRAW, 1, _key(job_id))
            pipeline.delete(_key(job_id), _lease_key(job_id), dicom_key(job_id))
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

    def remember(self, idempotency_key: str, fingerprint: str, job_id: str, ttl_s: float) -> tuple[str, str]:
        """(fingerprint, job id) first stored under an idempotency key: the given ones, or an earlier request's."""
        key, value = f"idempotency:{idempotency_key}", f"{fingerprint} {job_id}"
        earlier: Any = self._redis.set(key, value, nx=True, get=True, ex=max(1, round(ttl_s)))
        stored = value if earlier is None else earlier.decode()
        first, second = stored.split(" ")
        return first, second

    def forget(self, idempotency_key: str, job_id: str) -> None:
        """Undo :meth:`remember` for the job of a request that was refused or died; another job's entry stays."""
        self._forget(keys=[f"idempotency:{idempotency_key}"], args=[f" {job_id}"])

    def _close(self, job_id: str) -> None:
        self._redis.zrem(ACTIVE, job_id)
        self._redis.delete(_lease_key(job_id))

    def _announce(self, job_id: str) -> None:
        self._redis.publish(events_channel(job_id), b"changed")


def events_channel(job_id: str) -> str:
    """Something is published here whenever the job's record changes; read the record then."""
    return f"job:{job_id}:events"


def dicom_key(job_id: str) -> str:
    """What is known of the DICOM objects that a job made."""
    return f"job:{job_id}:dicom"


def _key(job_id: str) -> str:
    return f"job:{job_id}"


def _lease_key(job_id: str) -> str:
    return f"job:{job_id}:lease"


def _gone_key(job_id: str) -> str:
    return f"job:{job_id}:gone"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _fields(job: Job) -> dict[str, str]:
    errands: dict[str, Errand] = {str(number): delivery for number, delivery in enumerate(job.deliveries)}
    if job.fetch is not None:
        errands[FETCH] = job.fetch
    own = job.model_dump(mode="json", exclude={"fetch", "deliveries"})
    return _encode(own) | {_ERRAND + name: errand.model_dump_json() for name, errand in errands.items()}


def _job(fields: dict[bytes, bytes]) -> Job:
    texts = {name.decode(): value for name, value in fields.items() if name != b"request"}
    errands = {name.removeprefix(_ERRAND): texts.pop(name) for name in list(texts) if name.startswith(_ERRAND)}
    fetch = errands.pop(FETCH, None)
    return Job.model_validate(
        {name: json.loads(value) for name, value in texts.items()}
        | {"fetch": None if fetch is None else json.loads(fetch)}
        | {"deliveries": [json.loads(errands[number]) for number in sorted(errands, key=int)]}
    )


def _encode(fields: dict[str, Any]) -> dict[str, str]:
    def plain(value: Any) -> Any:
        return value.model_dump(mode="json") if hasattr(value, "model_dump") else value

    return {name: json.dumps(plain(value)) for name, value in fields.items()}


def _flat(fields: dict[str, str]) -> list[str]:
    return [part for item in fields.items() for part in item]
