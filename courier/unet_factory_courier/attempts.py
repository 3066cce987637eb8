"""Attempts at deliveries: which are made when, and one from its lease to its outcome.

A dispatcher takes what is due from each destination's queue, so many at a time: a dead destination holds up only
its own. Each attempt holds a lease while it lasts, and then settles the delivery: as delivered, to be tried again,
or dead.
"""

import logging
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from redis.exceptions import RedisError

from unet_factory.domain.errors import FactoryError, JobExpired, JobUnknown, QueueUnavailable
from unet_factory.domain.jobs import DeliveryKind, Origin
from unet_factory.jobs.deliveries import ClaimedDelivery, DeliveryStore
from unet_factory.jobs.lease import Lease
from unet_factory.platform import metrics
from unet_factory.platform.audit import Action, AuditOutcome, record
from unet_factory.platform.following import following
from unet_factory.platform.logs import safe_traceback
from unet_factory.platform.redis_clients import log_level
from unet_factory.platform.tracing import describe_span
from unet_factory_courier.outcomes import GiveUp, NothingToDo, TryAgain
from unet_factory_courier.tasks import DeliveryTasks

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25

_PAUSE_S = 2.0
_AUDITED = {"delivered": AuditOutcome.OK, "retried": AuditOutcome.FAILED, "dead": AuditOutcome.REFUSED}


@dataclass(frozen=True)
class Attempts:
    """Safe to share between threads. ``publish`` sends a job id to the workers."""

    deliveries: DeliveryStore
    tasks: DeliveryTasks
    publish: Callable[[str], None]

    def run(self, claimed: ClaimedDelivery) -> None:
        """Whatever happens is written to the delivery; what cannot be written is left to the end of its lease."""
        try:
            with following(self._origin_of(claimed), f"deliver {claimed.delivery.kind}", job=claimed.job_id):
                self._run(claimed)
        except RedisError as error:
            log.warning("%s will be tried again when its lease ends: %s", claimed.id, type(error).__name__)

    def _run(self, claimed: ClaimedDelivery) -> None:
        with self._lease_of(claimed):
            outcome = self._outcome(claimed)
        describe_span(attributes={"outcome": outcome})
        metrics.DELIVERIES.labels(claimed.delivery.kind.value, outcome).inc()
        _audit(claimed, outcome)
        log.info("%s (%s) attempt %d: %s", claimed.id, claimed.delivery.kind, claimed.delivery.attempts, outcome)

    def _origin_of(self, claimed: ClaimedDelivery) -> Origin:
        try:
            return self.tasks.jobs.request(claimed.job_id).origin
        except (JobUnknown, JobExpired):
            return Origin()

    def _lease_of(self, claimed: ClaimedDelivery) -> Lease:
        lease_s = self.tasks.settings.lease_s
        return Lease(claimed.id, lambda: self.deliveries.renew(claimed, lease_s), lease_s)

    def _outcome(self, claimed: ClaimedDelivery) -> str:
        if claimed.delivery.lost >= self.tasks.settings.job_attempts:
            return self._give_up(
                claimed, f"its courier died during this delivery {claimed.delivery.lost} times in a row", None
            )
        try:
            self.tasks.run(claimed)
        except NothingToDo as nothing:
            self.deliveries.skip(claimed, str(nothing))
            return "skipped"
        except GiveUp as refusal:
            return self._give_up(claimed, str(refusal), refusal.error)
        except TryAgain as failure:
            return self._later(claimed, str(failure), failure.after_s)
        except RedisError:
            raise
        except Exception as error:
            log.error("%s: unexpected error\n%s", claimed.id, safe_traceback(error))
            return self._later(claimed, f"an unexpected error: {type(error).__name__}", None)
        self._done(claimed)
        return "delivered"

    def _done(self, claimed: ClaimedDelivery) -> None:
        """A fetched job is for the workers from here on; should the message get lost, maintenance sends another."""
        if not self.deliveries.deliver(claimed) or claimed.delivery.kind is not DeliveryKind.FETCH:
            return
        try:
            self.publish(claimed.job_id)
        except QueueUnavailable as error:
            log.warning("job %s could not be sent; maintenance will send it: %s", claimed.job_id, type(error).__name__)

    def _later(self, claimed: ClaimedDelivery, reason: str, after_s: float | None) -> str:
        settings, delivery = self.tasks.settings, claimed.delivery
        fetching = delivery.kind is DeliveryKind.FETCH
        max_age_s = settings.fetch_max_age_s if fetching else settings.delivery_max_age_s
        age_s = claimed.tried_for_s
        if delivery.attempts >= settings.delivery_attempts or age_s >= max_age_s:
            return self._give_up(claimed, f"{reason} (given up after {age_s:.0f} s)", None)
        delay_s = max(after_s or 0.0, backoff_s(delivery.attempts, settings.delivery_backoff_s, self._longest_s))
        self.deliveries.postpone(claimed, reason, delay_s)
        log.warning("%s (%s) will be tried again in %.1f s: %s", claimed.id, delivery.kind, delay_s, reason)
        return "retried"

    def _give_up(self, claimed: ClaimedDelivery, reason: str, error: FactoryError | None) -> str:
        if claimed.delivery.kind is DeliveryKind.FETCH:
            self.tasks.fail_job(claimed, reason, error)
        else:  # long enough for somebody to replay it
            self.tasks.jobs.keep(claimed.job_id, self.tasks.settings.retention_s)
        self.deliveries.bury(claimed, reason)
        log.error("%s (%s) is dead: %s", claimed.id, claimed.delivery.kind, reason)
        return "dead"

    @property
    def _longest_s(self) -> float:
        return self.tasks.settings.delivery_backoff_max_s


def _audit(claimed: ClaimedDelivery, outcome: str) -> None:
    """A line for each attempt that may have moved what is a patient's; whose job it is, its own line tells."""
    if outcome in _AUDITED:
        action = Action.FETCH if claimed.delivery.kind is DeliveryKind.FETCH else Action.EXPORT
        record(action, _AUDITED[outcome], job=claimed.job_id, destination=claimed.delivery.destination)


def backoff_s(attempts: int, first_s: float, longest_s: float) -> float:
    """Pause after so many failures: doubled with each, and spread so that those who failed together come apart."""
    pause_s: float = min(longest_s, first_s * 2.0 ** min(attempts - 1, 60))
    return pause_s * random.uniform(0.5, 1.0)


class Dispatcher:
    """One loop; each attempt runs in a thread of its own."""

    def __init__(
        self,
        deliveries: DeliveryStore,
        attempt: Callable[[ClaimedDelivery], None],
        lease_s: float,
        per_destination: int,
    ) -> None:
        self._deliveries, self._attempt = deliveries, attempt
        self._lease_s, self._per_destination = lease_s, per_destination
        self._busy: Counter[str] = Counter()
        self._freed = threading.Condition()

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``; attempts that run then go on."""
        while not stop.wait(LOOK_EVERY_S):
            try:
                self.run_once()
            except RedisError as error:
                log.log(log_level(error), "waiting for Redis: %s", type(error).__name__)
                stop.wait(_PAUSE_S)

    def run_once(self) -> None:
        """Start an attempt at everything that is due, as far as its destination has room."""
        for queue in self._deliveries.queues():
            while self._busy[queue] < self._per_destination:
                claimed = self._deliveries.claim(queue, secrets.token_hex(16), self._lease_s)
                if claimed is None:
                    break
                with self._freed:
                    self._busy[queue] += 1
                threading.Thread(target=self._run, args=(queue, claimed), name="attempt", daemon=True).start()

    def finish(self, within_s: float) -> bool:
        """Wait for the attempts that run; False when some still do, and are left to their leases."""
        deadline = time.monotonic() + within_s
        with self._freed:
            return self._freed.wait_for(lambda: not self._busy.total(), max(0.0, deadline - time.monotonic()))

    def _run(self, queue: str, claimed: ClaimedDelivery) -> None:
        try:
            self._attempt(claimed)
        finally:
            with self._freed:
                self._busy[queue] -= 1
                if not self._busy[queue]:
                    del self._busy[queue]
                self._freed.notify_all()
