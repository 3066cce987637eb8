"""What keeps promises while nobody asks: lost workers' jobs go back to the queue, expired ones are purged.

Runs in gateways and workers alike, one at a time by a lock in Redis; every action is safe to repeat. None needs memory
that a full server would not give, but for sending messages.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from unet_factory.domain.errors import FactoryError, JobExpired, JobUnknown, WorkerLost
from unet_factory.domain.jobs import SEGMENT_QUEUE, DeliveryState, Job
from unet_factory.domain.problems import problem_of
from unet_factory.jobs.keys import PURGED
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.scripts import lua
from unet_factory.jobs.store import JobStore, now_s
from unet_factory.platform import metrics
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.redis_clients import AWAY, log_level
from unet_factory.platform.settings import Settings

log = logging.getLogger(__name__)

ORPHAN_AGE_S = 3600.0
_LOCK = "maintenance:lock"
_ORPHANS_LOCK = "maintenance:orphans"
_FORGET_LOCK = "maintenance:forget"
_ORPHANS_INTERVAL_S = 60.0  # a listing of the whole store
_SCRATCH_INTERVAL_S = 60.0
_RESEND_ANYWAY_S = 600.0
_DELIVERING_RECHECK_S = 10.0
_PURGED_AT_ONCE = 100
_FORGET_EVERY = 5  # intervals of maintenance: the server writes its file anew


class Maintenance:
    """``send`` puts a job id on the queue; claims make a second message harmless."""

    def __init__(self, redis: Redis, blobs: BlobStore, send: Callable[[str], None], settings: Settings) -> None:
        self._redis, self._blobs, self._send, self._settings = redis, blobs, send, settings
        self._jobs, self._lifecycle = JobStore(redis), JobLifecycle(redis, blobs)
        self._take_turn = redis.register_script(lua("take_turn"))
        self._reap = redis.register_script(lua("reap_jobs"))
        self._postpone_purge = redis.register_script(lua("postpone_purge"))
        self._scratch_due = 0.0

    def run_once(self) -> None:
        """Purge, then reap; at most once per interval over all processes, except for what lies on this machine.

        A step that fails, as on a full disk, keeps none of the others from making room.

        Raises:
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: the server is away.
        """
        if time.monotonic() >= self._scratch_due:
            self._scratch_due = time.monotonic() + _SCRATCH_INTERVAL_S
            self._try(self.purge_scratch)
        if not self._is_our_turn(_LOCK, self._settings.maintenance_interval_s - 0.1):
            return
        for step in (self.purge_expired, self.purge_uploads, self.forget_the_past, self.reap):
            self._try(step)
        if self._is_our_turn(_ORPHANS_LOCK, _ORPHANS_INTERVAL_S):
            self._try(self.purge_orphans)

    def reap(self) -> None:
        """Give jobs of dead workers back to the queue, and send queued jobs whose message may be lost again."""
        found: Any = self._reap(args=[SEGMENT_QUEUE, self._settings.lease_s, _RESEND_ANYWAY_S])
        lost, unsent = ([raw.decode() for raw in ids] for ids in found)
        for job_id in lost:
            with suppress(JobUnknown, JobExpired):  # purged in this moment
                self._retry_or_give_up(job_id)
        for job_id in unsent:
            self._send(job_id)

    def purge_expired(self) -> None:
        """Jobs whose time is over, many at once; those that have not ended are cancelled, and say so to who waits."""
        expired = self._jobs.expired_ids()
        for start in range(0, len(expired), _PURGED_AT_ONCE):
            job_ids = expired[start : start + _PURGED_AT_ONCE]
            self._lifecycle.cancel_all([job.id for job in self._jobs.get_all(job_ids) if not job.state.final])
            needed = {job.id for job in self._jobs.get_all(job_ids) if self._still_delivering(job)}
            for job_id in needed:
                self._postpone_purge(args=[job_id, _DELIVERING_RECHECK_S])
            self._lifecycle.purge(*(job_id for job_id in job_ids if job_id not in needed))

    def purge_scratch(self) -> None:
        """Temporary folders of this machine's killed processes."""
        self._blobs.purge_scratch(ORPHAN_AGE_S)

    def purge_uploads(self) -> None:
        """Scans whose jobs have ended: nothing needs them any more."""
        if self._settings.upload_retention_s is None:
            return
        for job_id in self._jobs.uploads_since(self._settings.upload_retention_s):
            with suppress(JobUnknown, JobExpired):  # purged in this moment
                self._blobs.remove(job_id, self._jobs.request(job_id).input_name)
                self._jobs.count_bytes(job_id, self._blobs.stored_bytes(job_id))
            self._jobs.upload_gone(job_id)

    def forget_the_past(self) -> None:
        """Have the server rewrite its append-only file after a purge: the old file still contains what was deleted.

        Does nothing where the server keeps no such file, or does not let us (a managed one).
        """
        if not self._redis.exists(PURGED):
            return
        if not self._is_our_turn(_FORGET_LOCK, _FORGET_EVERY * self._settings.maintenance_interval_s):
            return
        self._redis.delete(PURGED)  # before: a purge from here on asks for the next time
        try:
            if self._redis.info("persistence").get("aof_enabled"):
                self._redis.bgrewriteaof()
        except ResponseError as error:
            log.warning("the store's append-only file still holds purged data: %s", error)

    def purge_orphans(self) -> None:
        """Files without a record: an upload whose gateway died before it wrote one, a result written after a purge.

        Their age is judged by the server's clock: by a wrong one of ours, an upload of this moment would be old.
        """
        now = now_s(self._redis)
        for job_id, modified in self._blobs.job_ids():
            if now - modified > ORPHAN_AGE_S and not self._is_known(job_id):
                self._blobs.delete(job_id)
        self._blobs.purge_unfinished(ORPHAN_AGE_S)

    def _still_delivering(self, job: Job) -> bool:
        """Whether its files are needed for a delivery that may still succeed; too old a one is given up."""
        pending = [delivery for delivery in job.deliveries if delivery.state is DeliveryState.PENDING]
        started = [delivery.since or job.finished or job.expires for delivery in pending]
        if started and now_s(self._redis) - min(started) < self._settings.delivery_max_age_s:
            return True
        for delivery in pending:
            metrics.DELIVERIES.labels(delivery.kind.value, DeliveryState.DEAD.value).inc()
            log.error("job %s expires with a delivery (%s) that could not be made", job.id, delivery.kind)
        return False

    def _retry_or_give_up(self, job_id: str) -> None:
        job = self._jobs.get(job_id)
        if job.attempts >= self._settings.job_attempts:
            error = WorkerLost(f"the worker died {job.attempts} times while running this job", attempts=job.attempts)
            if self._lifecycle.fail(job_id, problem_of(error)):
                log.error("job %s given up after %d attempts", job_id, job.attempts)
        elif self._lifecycle.requeue(job_id):
            log.warning("job %s lost its worker in attempt %d and is queued again", job_id, job.attempts)
            self._send(job_id)

    def _is_known(self, job_id: str) -> bool:
        try:
            self._jobs.get(job_id)
        except (JobUnknown, JobExpired):
            return False
        return True

    def _is_our_turn(self, lock: str, every_s: float) -> bool:
        return bool(self._take_turn(keys=[lock], args=[max(1, round(every_s * 1000))]))

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except AWAY:
            raise
        except (RedisError, OSError, FactoryError) as error:
            log.warning("maintenance could not finish %s: %s", step.__name__, type(error).__name__)


def run_maintenance(maintenance: Maintenance, interval_s: float, stop: threading.Event) -> None:
    """Run until ``stop``; a Redis that is away is waited for."""
    while not stop.wait(interval_s):
        try:
            maintenance.run_once()
        except RedisError as error:
            log.log(log_level(error), "maintenance waits for Redis: %s", type(error).__name__)
        except Exception:
            log.exception("maintenance failed; it will be tried again")
