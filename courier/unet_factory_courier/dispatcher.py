"""Takes what is due, from each destination's queue so many at a time: a dead destination holds up only its own."""

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable

from redis.exceptions import RedisError

from unet_factory.jobs.deliveries import ClaimedDelivery, DeliveryStore

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
_PAUSE_S = 2.0


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
                log.warning("waiting for Redis: %s", type(error).__name__)
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
