"""Received instances, kept per series until the series is complete, and after that until it expires.

Files lie in the blob store under ``received/SERIES/INSTANCE.dcm``; both names are digests of UIDs, so an instance that
is sent again takes its own place. In Redis: ``received:due`` (when to look at a series), ``received:expiry`` (when to
purge it), ``received:SERIES`` (hash: what became of it), ``received:SERIES:lease``, ``received:job:ID`` (its series).
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from redis import Redis

from unet_factory.domain.jobs import Origin
from unet_factory.domain.uids import uid_digest
from unet_factory.jobs.keys import stored_key
from unet_factory.jobs.lease import exclusive
from unet_factory.jobs.scripts import lua
from unet_factory.jobs.store import now_s
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.following import origin_of_new_work
from unet_factory_service.settings import GatewaySettings

ORPHAN_AGE_S = 3600.0

_DUE = "received:due"
_EXPIRY = "received:expiry"

# KEYS: sorted set. ARGV: member, score it must still have, new score or "". An instance that came meanwhile wins.
_UNLESS_CHANGED = """
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[3] == '' then return redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
"""


class DueSeries(NamedTuple):
    """``due_ms`` since the epoch changes with every instance that comes."""

    id: str
    due_ms: int


class Submission(NamedTuple):
    """What became of a series when it was last looked at: the digest of its content, the job, how many there were."""

    digest: str
    job_id: str
    jobs: int


class ReceivedSeries:
    """Shared by all gateways; every step is safe to repeat."""

    def __init__(self, redis: Redis, settings: GatewaySettings) -> None:
        self._redis = redis
        self._quiet_s, self._keep_s, self._lease_s = settings.series_quiet_s, settings.retention_s, settings.lease_s
        self._blobs = BlobStore(settings.blob_url, "received", min_free_bytes=settings.min_free_bytes)
        self._take_bytes = redis.register_script(lua("take_bytes"))
        self._unless_changed = redis.register_script(_UNLESS_CHANGED)

    def announce(self, series_ids: set[str], owner: str = "") -> None:
        """Instances of these series arrive: look at each when nothing has come for the quiet period.

        To be called before their files are put down, so that none expires meanwhile, and after.
        """
        if not series_ids:
            return
        origin = origin_of_new_work().model_dump_json()
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.zadd(_EXPIRY, dict.fromkeys(series_ids, _ms_from_now(self._keep_s)))
            pipeline.zadd(_DUE, dict.fromkeys(series_ids, _ms_from_now(self._quiet_s)))
            for series_id in series_ids:
                pipeline.hset(f"received:{series_id}", mapping={"owner": owner, "origin": origin})
            pipeline.execute()

    def put(self, series_id: str, instance_id: str, file: Path) -> None:
        """Move an instance's file here; it is on the disk when this returns.

        Raises:
            StorageFull: there is no room for it.
        """
        self._blobs.put(series_id, f"{instance_id}.dcm", file)

    def grown_bytes(self, series_id: str, instance_id: str, file: Path) -> int:
        """What an instance that is put down adds to what its series takes up: less where it was here before."""
        return file.stat().st_size - self._blobs.size(series_id, f"{instance_id}.dcm")

    def take_bytes(self, series_id: str, owner: str, wanted_bytes: int, allowed_bytes: int) -> bool:
        """Count bytes (which may be fewer than none) of a series that was announced.

        Returns:
            False, and nothing is counted, when the owner would have more than ``allowed_bytes`` (0: any number) stored.
        """
        if owner and not self._take_bytes(args=[owner, series_id, wanted_bytes, allowed_bytes]):
            return False
        self._redis.hincrby(f"received:{series_id}", "bytes", wanted_bytes)
        return True

    def waiting_ids(self) -> list[str]:
        """The series that are still to be looked at."""
        found: Any = self._redis.zrange(_DUE, 0, -1)
        return [raw.decode() for raw in found]

    def waiting_bytes(self) -> int:
        """Of those series: packed as the input of a job, each takes as much again."""
        if not (waiting := self.waiting_ids()):
            return 0
        with self._redis.pipeline(transaction=False) as pipeline:
            for series_id in waiting:
                pipeline.hget(f"received:{series_id}", "bytes")
            return sum(int(size or 0) for size in pipeline.execute())

    @contextmanager
    def files(self, series_id: str) -> Iterator[list[Path]]:
        """The instances as local files, for the duration of the block."""
        with ExitStack() as stack:
            yield [stack.enter_context(self._blobs.local(series_id, name)) for name in self._blobs.names(series_id)]

    def due(self) -> list[DueSeries]:
        """The series for which nothing has come for the quiet period, longest first."""
        found: Any = self._redis.zrangebyscore(_DUE, "-inf", _ms_from_now(0), withscores=True)
        return [DueSeries(raw.decode(), int(score)) for raw, score in found]

    def held(self, series_id: str) -> AbstractContextManager[bool]:
        """Whether the series is the caller's to look at, for the duration of the block."""
        return exclusive(self._redis, f"received:{series_id}:lease", self._lease_s)

    def settle(self, series: DueSeries) -> None:
        """Nothing is to be done for it any more, unless something has come meanwhile."""
        self._unless_changed(keys=[_DUE], args=[series.id, series.due_ms, ""])

    def postpone(self, series: DueSeries, by_s: float) -> None:
        """Look at it again later."""
        self._unless_changed(keys=[_DUE], args=[series.id, series.due_ms, _ms_from_now(by_s)])

    def owner(self, series_id: str) -> str:
        """Whose jobs are made of it; empty where nobody had to say who they are."""
        found: Any = self._redis.hget(f"received:{series_id}", "owner")
        return str((found or b"").decode())

    def origin(self, series_id: str) -> Origin:
        """The request that brought the series or, of several, the last part of it."""
        found: Any = self._redis.hget(f"received:{series_id}", "origin")
        return Origin.model_validate_json(found or b"{}")

    def submission(self, series_id: str) -> Submission | None:
        found: Any = self._redis.hmget(f"received:{series_id}", "digest", "job", "jobs")
        return None if None in found else Submission(found[0].decode(), found[1].decode(), int(found[2]))

    def record(self, series_id: str, submission: Submission) -> None:
        """A job was made of a series; an earlier one, of less than the whole series, stands for it no more."""
        keep_s, earlier = round(2 * self._keep_s), self.submission(series_id)
        with self._redis.pipeline(transaction=True) as pipeline:
            fields = {"digest": submission.digest, "job": submission.job_id, "jobs": str(submission.jobs)}
            if earlier is not None:
                pipeline.delete(f"received:job:{earlier.job_id}")
            pipeline.hset(f"received:{series_id}", mapping=fields)  # type: ignore[arg-type]
            pipeline.set(f"received:job:{submission.job_id}", series_id, ex=max(1, keep_s))
            pipeline.execute()

    def series_of(self, job_id: str) -> str | None:
        """The series that a job was made of, if it was received here and is still kept."""
        found: Any = self._redis.get(f"received:job:{job_id}")
        return None if found is None else str(found.decode())

    def purge(self, series_id: str) -> None:
        """Delete everything of a series, the record first, so that no reader finds a record without its files.

        Files that cannot be deleted now are deleted with what expires.
        """
        submission, owner = self.submission(series_id), self.owner(series_id)
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.zrem(_DUE, series_id)
            pipeline.zadd(_EXPIRY, {series_id: 0})
            pipeline.delete(f"received:{series_id}", f"received:{series_id}:lease")
            pipeline.hdel(stored_key(owner), series_id)
            if submission is not None:
                pipeline.delete(f"received:job:{submission.job_id}")
            pipeline.execute()
        self._blobs.delete(series_id)
        self._redis.zrem(_EXPIRY, series_id)

    def purge_expired(self) -> None:
        found: Any = self._redis.zrangebyscore(_EXPIRY, "-inf", _ms_from_now(0))
        for raw in found:
            self.purge(raw.decode())

    def purge_orphans(self) -> None:
        """Files without a record: those of a request whose gateway, or whose Redis, lost it before it was answered."""
        now = now_s(self._redis)
        for series_id, modified in list(self._blobs.job_ids()):
            if now - modified > ORPHAN_AGE_S and self._redis.zscore(_EXPIRY, series_id) is None:
                self._blobs.delete(series_id)


def series_id_of(study_uid: str, series_uid: str, owner: str = "") -> str:
    """How a series is called here: nothing that is stored or logged tells its UIDs. Each owner's is another."""
    return uid_digest(study_uid, series_uid, *([owner] if owner else []))


def _ms_from_now(seconds: float) -> int:
    """Whole milliseconds: Redis and its scripts write them alike, so they can be compared."""
    return round((time.time() + seconds) * 1000)
