"""Servers that are away: one line when an outage begins, ever fewer while it lasts, one when it is over.

Whoever talks to a server reports here how that went, however often. Nothing else then needs to log that it waits.
"""

import logging
import threading
import time
from dataclasses import dataclass

log = logging.getLogger(__name__)

FIRST_REMINDER_S = 60.0
LONGEST_PAUSE_S = 3600.0


@dataclass
class _Outage:
    began: float
    told: float
    pause_s: float = 0.0
    failures: int = 0


class Outages:
    """Those that one process sees; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: dict[str, _Outage] = {}

    def failed(self, server: str, error: BaseException) -> None:
        """``server``, named by kind and address without credentials, could not be reached or did not do its work."""
        now = time.monotonic()
        with self._lock:
            outage = self._now.setdefault(server, _Outage(now, now))
            outage.failures += 1
            if now - outage.told < outage.pause_s:
                return
            outage.pause_s, outage.told = min(2 * outage.pause_s, LONGEST_PAUSE_S) or FIRST_REMINDER_S, now
            lasted_s, failures = now - outage.began, outage.failures
        if failures == 1:
            log.warning("%s is not available and is waited for: %s: %s", server, type(error).__name__, error)
        else:
            log.warning("%s has not been available for %.0f s (%d attempts)", server, lasted_s, failures)

    def answered(self, server: str) -> None:
        """``server`` was reached and did its work."""
        if server not in self._now:
            return
        with self._lock:
            outage = self._now.pop(server, None)
        if outage is not None:
            log.info("%s is available again after %.0f s", server, time.monotonic() - outage.began)


outages = Outages()
