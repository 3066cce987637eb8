"""From received series to jobs: when a series has been quiet for long enough, the operator's rules decide.

A thread in every gateway; a lease lets one of them look at a series at a time. What a gateway leaves unfinished,
because it dies or because the queue is full, the next look takes up again: a job is made once, by its idempotency key.
"""

import asyncio
import hashlib
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.exceptions import RedisError

from unet_factory.domain.errors import FactoryError, JobExpired, JobUnknown, StorageFull, StorageUnavailable
from unet_factory.domain.jobs import Job, JobState
from unet_factory.platform import audit
from unet_factory.platform.following import following
from unet_factory.platform.logs import safe_traceback
from unet_factory.platform.metrics import RECEIVED_SERIES
from unet_factory.platform.redis_clients import log_level
from unet_factory.volume.dicom import pack_series
from unet_factory.volume.dicom.objects import read_object
from unet_factory_service.access.callers import on_behalf_of
from unet_factory_service.dependencies import GatewayContext
from unet_factory_service.dicomweb.received import DueSeries, Submission
from unet_factory_service.dicomweb.routing import RoutingRule
from unet_factory_service.errors import NotReady, QueueFull, QuotaExceeded
from unet_factory_service.segmentations.idempotency import storage_key
from unet_factory_service.segmentations.submission import submit
from unet_factory_service.segmentations.upload import ReceivedScan

log = logging.getLogger(__name__)

_POSTPONED_S = 2.0
_AFTER_AN_ERROR_S = 60.0
_PURGE_EVERY_S = 60
_ENDS_WITHIN_S = 10.0


@asynccontextmanager
async def receiving(gateway: GatewayContext) -> AsyncIterator[None]:
    """The thread lives as long as the block."""
    stop = threading.Event()
    thread = threading.Thread(target=Reception(gateway).run, args=(stop,), name="reception", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        await asyncio.to_thread(thread.join, _ENDS_WITHIN_S)


class Reception:
    """Looks at what has been received."""

    def __init__(self, gateway: GatewayContext) -> None:
        self._gateway, self._received = gateway, gateway.received

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``; a Redis that is away is waited for."""
        interval_s = min(1.0, max(0.1, self._gateway.settings.series_quiet_s / 5))
        while not stop.wait(interval_s):
            try:
                self.run_once()
            except RedisError as error:
                log.log(log_level(error), "the reception of series waits for Redis: %s", type(error).__name__)
            except StorageUnavailable:
                log.warning("expired series will be deleted when the blob store answers again")
            except Exception as error:
                log.error("the reception of series failed; it will be tried again\n%s", safe_traceback(error))

    def run_once(self) -> None:
        """Look at every series that is due, then purge what has expired."""
        for series in self._received.due():
            with self._received.held(series.id) as held:
                if held:
                    with following(self._received.origin(series.id), "route a received series"):
                        self._look_at(series)
        if self._gateway.redis.set("received:purging", b"1", nx=True, ex=_PURGE_EVERY_S):
            self._received.purge_expired()
            self._received.purge_orphans()

    def _look_at(self, series: DueSeries) -> None:
        try:
            outcome = self._route(series.id)
        except (QueueFull, QuotaExceeded, NotReady, StorageFull, StorageUnavailable) as error:
            log.warning("a received series has to wait: %s", error.slug)
            self._received.postpone(series, _POSTPONED_S)
            return
        except FactoryError as error:
            log.warning("a received series cannot be segmented: %s", error.slug)
            outcome = "refused"
        except RedisError:
            raise
        except Exception as error:
            log.error("a received series will be tried again later\n%s", safe_traceback(error))
            self._received.postpone(series, _AFTER_AN_ERROR_S)
            return
        RECEIVED_SERIES.labels(outcome).inc()
        self._received.settle(series)

    def _route(self, series_id: str) -> str:
        """What became of the series: submitted, repeated (nothing new in it), not_routed or expired."""
        with self._received.files(series_id) as files:
            if not files:
                return "expired"
            rule = self._rule_for(files[0])
            if rule is None:
                log.warning("a received series of %d instances matches no rule", len(files))
                return "not_routed"
            digest = _digest(files, rule)
            earlier = self._received.submission(series_id)
            if earlier is not None and earlier.digest == digest and self._stands(earlier.job_id):
                return "repeated"
            job = self._submit(series_id, files, rule, Submission(digest, "", earlier.jobs if earlier else 0))
        if earlier is not None:
            self._supersede(earlier.job_id)
        log.info("a received series of %d instances becomes job %s", len(files), job.id)
        return "submitted"

    def _rule_for(self, file: Path) -> RoutingRule | None:
        routing = self._gateway.routing
        if routing is None:
            return None
        with file.open("rb") as opened:
            return routing.rule_for(read_object(opened, self._gateway.settings.volume_limits).dataset)

    def _submit(self, series_id: str, files: list[Path], rule: RoutingRule, submission: Submission) -> Job:
        """The key holds until the job is recorded with the series: dying in between makes no second job."""
        key = storage_key(f"received:{series_id}:{submission.digest}:{submission.jobs}")
        caller = on_behalf_of(self._received.owner(series_id), self._gateway.keys, self._gateway.settings)
        self._gateway.blobs.check_room(sum(file.stat().st_size for file in files), accepted=True)
        with self._gateway.blobs.scratch() as folder:
            scan = ReceivedScan(folder / "upload", submission.digest)
            pack_series(files, scan.file)
            job = submit(self._gateway, rule, scan, key, caller)
        self._received.record(series_id, Submission(submission.digest, job.id, submission.jobs + 1))
        audit.record(audit.Action.CREATE, audit.AuditOutcome.OK, key=caller.key_id, job=job.id)
        return job

    def _stands(self, job_id: str) -> bool:
        """Whether a job has answered for its series, or still may; one that failed or was purged has not."""
        try:
            return self._gateway.jobs.get(job_id).state not in (JobState.FAILED, JobState.CANCELLED)
        except (JobUnknown, JobExpired):
            return False

    def _supersede(self, job_id: str) -> None:
        """A job of less than the whole series is of no use any more; one that has ended stays as it is."""
        if self._gateway.lifecycle.cancel(job_id):
            log.info("job %s is replaced by a new one: more of its series has arrived", job_id)


def _digest(files: list[Path], rule: RoutingRule) -> str:
    """Of which instances there are and what is to be done with them; an instance's name is a digest of its UID."""
    content = "\n".join([*sorted(file.name for file in files), rule.model_dump_json()])
    return hashlib.sha256(content.encode()).hexdigest()
