"""A worker's hold on its job: kept by lease, bounded by a deadline."""

import logging
import os
import time
from types import TracebackType
from typing import Self

from unet_factory.domain.errors import DeadlineExceeded
from unet_factory.domain.jobs import JobState
from unet_factory.domain.problems import problem_of
from unet_factory.jobs.lease import Lease
from unet_factory.jobs.lifecycle import JobLifecycle

log = logging.getLogger(__name__)

OVERRUN_S = 60.0
_EXIT_STUCK = 3


class JobLost(Exception):
    """The job was cancelled, purged, or given to another owner: stop, and write nothing."""


class JobHold:
    """Keeps a claimed job for the duration of the block.

    The deadline is cooperative: :meth:`check` raises between windows. A job that never gets there, because a read or a
    kernel hangs, is failed ``OVERRUN_S`` later and takes its process down, since nothing else ends it.
    """

    def __init__(self, lifecycle: JobLifecycle, job_id: str, owner: str, lease_s: float, deadline_s: float) -> None:
        self._lifecycle, self._job_id, self._owner, self._deadline_s = lifecycle, job_id, owner, deadline_s
        self._started = time.monotonic()
        self._lease = Lease(
            f"job {job_id}",
            lambda: lifecycle.renew(job_id, owner, lease_s),
            lease_s,
            after_each=self._end_process_if_stuck,
        )

    def __enter__(self) -> Self:
        self._lease.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lease.__exit__(kind, error, trace)

    def check(self) -> None:
        """
        Raises:
            JobLost: the job is no longer ours.
            DeadlineExceeded: it has taken too long.
        """
        if self._lease.lost:
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

    def _end_process_if_stuck(self) -> None:
        if self._age_s <= self._deadline_s + OVERRUN_S:
            return
        log.error("job %s hangs beyond its deadline; the worker process ends with it", self._job_id)
        try:
            self._lifecycle.finish(self._job_id, self._owner, JobState.FAILED, error=problem_of(self._overdue()))
        finally:
            os._exit(_EXIT_STUCK)
