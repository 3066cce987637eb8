"""A job's life after it was recorded: claims, progress, end, counters, events and purge; only this module does them.

A job is claimed by lease, so that it outlives any worker and never runs twice to two ends.
"""

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from redis import Redis

from unet_factory.domain.errors import StorageUnavailable
from unet_factory.domain.jobs import JobState, Problem
from unet_factory.jobs.keys import EXPIRY, lease_key
from unet_factory.jobs.scripts import lua
from unet_factory.jobs.store import SEALED, encode, flat
from unet_factory.platform import metrics
from unet_factory.platform.blob_store import BlobStore

log = logging.getLogger(__name__)

TOMBSTONE_S = 7 * 24 * 3600

_DELETIONS_AT_ONCE = 8


class JobLifecycle:
    """Synchronous; safe to share between threads. ``blobs`` holds the jobs' files."""

    def __init__(self, redis: Redis, blobs: BlobStore) -> None:
        self._redis, self._blobs = redis, blobs
        self._claim = redis.register_script(lua("claim_job"))
        self._renew = redis.register_script(lua("renew_lease"))
        self._update = redis.register_script(lua("update_job"))
        self._end = redis.register_script(lua("end_job"))
        self._requeue = redis.register_script(lua("requeue_job"))
        self._purge = redis.register_script(lua("purge_job"))

    def claim(self, job_id: str, owner: str, lease_s: float) -> bool:
        """Take a queued job that nobody holds; counts the attempt. At most one owner at a time."""
        return bool(self._claim(args=[job_id, owner, round(lease_s * 1000)]))

    def renew(self, job_id: str, owner: str, lease_s: float) -> bool:
        """Extend the lease; False when it was lost, and the work must stop."""
        return bool(self._renew(keys=[lease_key(job_id)], args=[owner, round(lease_s * 1000)]))

    def is_leased(self, job_id: str) -> bool:
        return bool(self._redis.exists(lease_key(job_id)))

    def update(self, job_id: str, owner: str, **fields: Any) -> bool:
        """Write fields of a running job, as its owner; False if the owner has lost it or it has ended."""
        return bool(self._update(args=[job_id, owner, *flat(encode(fields))]))

    def finish(self, job_id: str, owner: str, state: JobState, **fields: Any) -> bool:
        """End the job, as its owner; False if another process ended it first.

        Its files count as stored; those in a store that is away now, when its upload is deleted.
        """
        stored_bytes: int | None = None
        with suppress(StorageUnavailable):
            stored_bytes = self._blobs.stored_bytes(job_id)
        return self._ended(job_id, owner, state, stored_bytes, **fields)

    def cancel(self, job_id: str) -> bool:
        """End a job from outside; False when it had ended already. Its worker notices at the next window."""
        return self._ended(job_id, "", JobState.CANCELLED)

    def cancel_all(self, job_ids: Sequence[str]) -> None:
        """:meth:`cancel` for many, whose writes wait for the disk together."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                self._end(args=[job_id, "", "", *flat(encode({"state": JobState.CANCELLED}))], client=pipeline)
            models: list[Any] = pipeline.execute()
        for model in filter(None, models):
            _count(model, JobState.CANCELLED)

    def fail(self, job_id: str, problem: Problem) -> bool:
        """Give up a job from outside; False when it had ended already."""
        return self._ended(job_id, "", JobState.FAILED, error=problem)

    def requeue(self, job_id: str) -> bool:
        """Put a running job whose lease has ended back to queued."""
        return bool(self._requeue(args=[job_id]))

    def purge(self, *job_ids: str) -> None:
        """Forget jobs, cancelling those that still run, and delete their files; a tombstone says that there was one.

        The records go before the files, all at once, as each write of its own would wait for the disk: a worker that
        puts down a result meanwhile sees that the job is gone. Files that cannot be deleted now count as expired, so
        maintenance tries again.

        Raises:
            OSError, StorageUnavailable: files of one could not be deleted; those of the others were.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                self._purge(args=[job_id, TOMBSTONE_S, SEALED], client=pipeline)
            models: list[Any] = pipeline.execute()
        for model in filter(None, models):
            _count(model, JobState.CANCELLED)
        with ThreadPoolExecutor(_DELETIONS_AT_ONCE) as threads:  # each waits for the disk
            failures = dict(zip(job_ids, threads.map(self._files_left, job_ids), strict=True))
        left = {job_id: error for job_id, error in failures.items() if error is not None}
        if left:
            self._redis.zadd(EXPIRY, dict.fromkeys(left, 0))
            raise next(iter(left.values()))

    def _files_left(self, job_id: str) -> OSError | StorageUnavailable | None:
        """Why a job's files could not be deleted; None: they are gone."""
        try:
            self._blobs.delete(job_id)
        except (OSError, StorageUnavailable) as error:
            return error
        return None

    def _ended(self, job_id: str, owner: str, state: JobState, stored_bytes: int | None = None, **fields: Any) -> bool:
        noted_bytes = "" if stored_bytes is None else stored_bytes
        model: Any = self._end(args=[job_id, owner, noted_bytes, *flat(encode({"state": state, **fields}))])
        if not model:
            return False
        _count(model, state)
        log.info("job %s %s", job_id, state.value)
        return True


def _count(model: bytes, state: JobState) -> None:
    metrics.JOBS.labels(json.loads(model), state.value).inc()
