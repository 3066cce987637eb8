"""Holding on to a claimed job while working on it, and learning in time when it is no longer ours."""

import logging
import os
import threading
import time
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from unet_factory.domain.errors import DeadlineExceeded
from unet_factory.domain.jobs import JobState
from unet_factory.domain.problems import problem_of
from unet_factory.jobs.store import JobStore

log = logging.getLogger(__name__)

OVERRUN_S = 60.0
_EXIT_STUCK = 3


class JobLost(Exception):
    """The job was cancelled, purged, or given to another owner: stop, and write nothing."""


class Lease:
    """Renews a claim in a thread for the duration of the block.

    The deadline is cooperative: :meth:`check` raises between windows. A job that never gets there, because a read or a
    kernel hangs, is failed ``OVERRUN_S`` later and takes its process down, since nothing else ends it.
    """

    def __init__(self, jobs: JobStore, job_id: str, owner: str, lease_s: float, deadline_s: float) -> None:
        self._jobs, self._job_id, self._owner = jobs, job_id, owner
        self._lease_s, self._deadline_s = lease_s, deadline_s
        self._started = self._renewed = time.monotonic()
        self._lost, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def check(self) -> None:
        """
        Raises:
            JobLost: the job is no longer ours.
            DeadlineExceeded: it has taken too long.
        """
        if self._lost.is_set():
            raise JobLost
        if self._age_s > self._deadline_s:
            raise self._overdue()

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._started

    def _overdue(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the job was stopped after {self._deadline_s:g} s, its deadline", deadline_s=self._deadline_s
        )

    def _keep(self) -> None:
        while not self._lost.is_set() and not self._done.wait(self._lease_s / 3):
            self._renew()
            if self._age_s > self._deadline_s + OVERRUN_S:
                self._give_up()

    def _renew(self) -> None:
        """A Redis that is away is waited for, as long as the lease can still be ours."""
        try:
            if self._jobs.renew(self._job_id, self._owner, self._lease_s):
                self._renewed = time.monotonic()
            else:
                self._lost.set()
        except RedisError as error:
            log.warning("job %s: the lease cannot be renewed: %s", self._job_id, type(error).__name__)
            if time.monotonic() - self._renewed > self._lease_s:
                self._lost.set()

    def _give_up(self) -> None:
        log.error("job %s hangs beyond its deadline; the worker process ends with it", self._job_id)
        try:
            self._jobs.finish(self._job_id, self._owner, JobState.FAILED, error=problem_of(self._overdue()))
        finally:
            os._exit(_EXIT_STUCK)
