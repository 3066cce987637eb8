"""A worker that ends when there is nothing left to do, for where something else starts workers when jobs wait."""

import logging
import os
import signal
import threading
import time

log = logging.getLogger(__name__)

_LOOKS_EVERY_S = 0.25


def leave_when_idle(after_s: float) -> None:
    """Have this process, a worker's parent, stop as if it was told to once it had no task for ``after_s``.

    A task that arrives in the same moment is still done: a worker that stops finishes what it has taken.
    """
    threading.Thread(target=_wait_for_idleness, args=(after_s,), name="idle exit", daemon=True).start()


def _wait_for_idleness(after_s: float) -> None:
    from celery.worker import state

    taken, since = -1, time.monotonic()
    while time.monotonic() - since < after_s:
        now_taken = sum(state.total_count.values())
        if state.reserved_requests or now_taken != taken:
            taken, since = now_taken, time.monotonic()
        time.sleep(_LOOKS_EVERY_S)
    log.info("no work for %g s: the worker ends", after_s)
    os.kill(os.getpid(), signal.SIGTERM)
