"""What a worker writes to the record of its job: whatever comes up within a moment is written together."""

import time
from typing import Any

from unet_factory.domain.jobs import JobState
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory_worker.lease import JobLost

WRITE_INTERVAL_S = 0.25


class JobRecord:
    """Of one attempt at a job. Each write costs the store, and all who follow the job, five commands and more."""

    def __init__(self, lifecycle: JobLifecycle, job_id: str, owner: str) -> None:
        self._lifecycle, self._job_id, self._owner = lifecycle, job_id, owner
        self._unwritten: dict[str, Any] = {}
        self._tried = time.monotonic()

    def note(self, **fields: Any) -> None:
        """Write fields now if nothing was written for ``WRITE_INTERVAL_S``, else with the next ones.

        Raises:
            JobLost: the job is no longer ours.
            RedisError: they cannot be written now; they are kept.
        """
        self._unwritten |= fields
        if time.monotonic() - self._tried >= WRITE_INTERVAL_S:
            self.write()

    def write(self) -> None:
        """Write what was noted, as before work that may take long. Raises like :meth:`note`."""
        if not self._unwritten:
            return
        self._tried = time.monotonic()
        if not self._lifecycle.update(self._job_id, self._owner, **self._unwritten):
            raise JobLost
        self._unwritten.clear()

    def finish(self, state: JobState, **fields: Any) -> None:
        """End the job with these fields and all that was noted. Raises like :meth:`note`."""
        if not self._lifecycle.finish(self._job_id, self._owner, state, **self._unwritten | fields):
            raise JobLost
