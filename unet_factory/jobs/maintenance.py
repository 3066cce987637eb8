"""What keeps promises while nobody asks: lost workers' jobs go back to the queue, expired ones are purged.

Runs in gateways and workers alike, one at a time by a lock in Redis; every action is safe to repeat.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from unet_factory.domain.errors import JobExpired, JobUnknown, WorkerLost
from unet_factory.domain.jobs import SEGMENT_QUEUE, DeliveryState, Job, JobState
from unet_factory.domain.problems import problem_of
from unet_factory.jobs.store import PURGED, JobStore
from unet_factory.platform import metrics
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.settings import Settings

log = logging.getLogger(__name__)

ORPHAN_AGE_S = 3600.0
_LOCK = "maintenance:lock"
_ORPHANS_LOCK = "maintenance:orphans"
_ORPHANS_INTERVAL_S = 60  # a listing of the whole store
_RESEND_ANYWAY_S = 600.0
_DELIVERING_RECHECK_S = 10.0
_SCRATCH_INTERVAL_S = 60.0
_FORGET_LOCK = "maintenance:forget"
_FORGET_EVERY = 5  # intervals of maintenance: the server writes its file anew


class Maintenance:
    """``send`` puts a job id on the queue; claims make a second message harmless."""

    def __init__(self, redis: Redis, blobs: BlobStore, send: Callable[[str], None], settings: Settings) -> None:
        self._redis, self._blobs, self._send, self._settings = redis, blobs, send, settings
        self._jobs = JobStore(redis)
        self._scratch_due = 0.0

    def run_once(self) -> None:
        """Reap, then purge; at most once per interval over all processes, except for what lies on this machine."""
        if time.monotonic() >= self._scratch_due:
            self._scratch_due = time.monotonic() + _SCRATCH_INTERVAL_S
            self.purge_scratch()
        interval_ms = round(self._settings.maintenance_interval_s * 1000)
        if not self._redis.set(_LOCK, b"1", nx=True, px=max(1, interval_ms - 100)):
            return
        self.reap()
        self.purge_uploads()
        self.purge_expired()
        self.forget_the_past()
        if self._redis.set(_ORPHANS_LOCK, b"1", nx=True, ex=_ORPHANS_INTERVAL_S):
            self.purge_orphans()

    def reap(self) -> None:
        """Give jobs of dead workers back to the queue, and send queued jobs whose message may be lost again."""
        for job in self._jobs.active(untouched_s=self._settings.lease_s):
            if job.state is JobState.RUNNING and not self._jobs.leased(job.id):
                self._retry_or_give_up(job)
        queued = sum(job.ready_to_run for job in self._jobs.active())
        messages_are_missing = self._redis.llen(SEGMENT_QUEUE) < queued
        resend_after_s = self._settings.lease_s if messages_are_missing else _RESEND_ANYWAY_S
        for job in self._jobs.active(untouched_s=resend_after_s):
            if job.ready_to_run:
                self._send_again(job.id)

    def purge_expired(self) -> None:
        for job_id in self._jobs.due():
            self._jobs.end(job_id, JobState.CANCELLED)
            if self._still_delivering(job_id):
                self._jobs.look_again(job_id, time.time() + _DELIVERING_RECHECK_S)
                continue
            self._jobs.purge(job_id)  # before its files: a worker that puts down a result now sees that it is gone
            self._blobs.delete(job_id)

    def purge_scratch(self) -> None:
        """Temporary folders of this machine's killed processes."""
        self._blobs.purge_scratch(ORPHAN_AGE_S)

    def purge_uploads(self) -> None:
        """Scans whose jobs have ended: nothing needs them any more."""
        if self._settings.upload_retention_s is None:
            return
        for job_id in self._jobs.uploads_since(self._settings.upload_retention_s):
            with suppress(JobUnknown):  # purged in this moment
                self._blobs.remove(job_id, self._jobs.request(job_id).input_name)
            self._jobs.upload_gone(job_id)

    def forget_the_past(self) -> None:
        """Have the server write its append-only file anew after a purge: what was deleted still stands in the old one.

        Does nothing where the server keeps no such file, or does not let us (a managed one).
        """
        if not self._redis.exists(PURGED):
            return
        pause_ms = round(_FORGET_EVERY * self._settings.maintenance_interval_s * 1000)
        if not self._redis.set(_FORGET_LOCK, b"1", nx=True, px=max(1, pause_ms)):
            return
        self._redis.delete(PURGED)  # before: a purge from here on asks for the next time
        try:
            if self._redis.info("persistence").get("aof_enabled"):
                self._redis.bgrewriteaof()
        except ResponseError as error:
            log.warning("the store's append-only file keeps what was purged: %s", error)

    def purge_orphans(self) -> None:
        """Files without a record: an upload whose gateway died before it wrote one, a result written after a purge."""
        for job_id, modified in self._blobs.job_ids():
            if time.time() - modified > ORPHAN_AGE_S and not self._known(job_id):
                self._blobs.delete(job_id)

    def _still_delivering(self, job_id: str) -> bool:
        """Whether its files are needed for a delivery that may still succeed; too old a one is given up."""
        try:
            job = self._jobs.get(job_id)
        except (JobUnknown, JobExpired):
            return False
        pending = [delivery for delivery in job.deliveries if delivery.state is DeliveryState.PENDING]
        started = [delivery.since or job.finished or job.expires for delivery in pending]
        if started and time.time() - min(started) < self._settings.delivery_max_age_s:
            return True
        for delivery in pending:
            metrics.DELIVERIES.labels(delivery.kind.value, DeliveryState.DEAD.value).inc()
            log.error("job %s expires with a delivery (%s) that nobody could make", job_id, delivery.kind)
        return False

    def _retry_or_give_up(self, job: Job) -> None:
        if job.attempts >= self._settings.job_attempts:
            error = WorkerLost(f"the worker was lost {job.attempts} times while it ran this job", attempts=job.attempts)
            if self._jobs.end(job.id, JobState.FAILED, problem_of(error)):
                metrics.JOBS.labels(job.model, JobState.FAILED.value).inc()
                log.error("job %s given up after %d attempts", job.id, job.attempts)
        elif self._jobs.requeue(job.id):
            log.warning("job %s lost its worker at attempt %d; queued again", job.id, job.attempts)
            self._send_again(job.id)

    def _send_again(self, job_id: str) -> None:
        self._jobs.touch(job_id)
        self._send(job_id)

    def _known(self, job_id: str) -> bool:
        try:
            self._jobs.get(job_id)
        except (JobUnknown, JobExpired):
            return False
        return True


def run_maintenance(maintenance: Maintenance, interval_s: float, stop: threading.Event) -> None:
    """Run until ``stop``; a Redis that is away is waited for."""
    while not stop.wait(interval_s):
        try:
            maintenance.run_once()
        except RedisError as error:
            log.warning("maintenance waits for Redis: %s", type(error).__name__)
        except Exception:
            log.exception("maintenance failed; it will be tried again")
