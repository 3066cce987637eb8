"""Who computes in the worker's one process: jobs come first, and a measurement gives way to them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class GaveWay(Exception):
    """A job came while something was measured; the measurement says nothing."""


class Computing:
    """One at a time; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._job_waits = threading.Event()

    @contextmanager
    def job(self) -> Iterator[None]:
        """Compute for a caller, as soon as a measurement has given way."""
        self._job_waits.set()
        with self._lock:
            try:
                yield
            finally:
                self._job_waits.clear()

    @contextmanager
    def measurement(self) -> Iterator[None]:
        """
        Raises:
            GaveWay: a job is there.
        """
        if not self._lock.acquire(blocking=False):
            raise GaveWay
        try:
            self.give_way()
            yield
            self.give_way()
        finally:
            self._lock.release()

    def give_way(self) -> None:
        """Called again and again by what is measured.

        Raises:
            GaveWay: a job waits.
        """
        if self._job_waits.is_set():
            raise GaveWay
