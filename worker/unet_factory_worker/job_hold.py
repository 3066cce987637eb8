"""A worker's hold on its job, kept by lease and bounded by a deadline, and all that it writes while it has it."""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import stamina
from numpy.typing import NDArray
from redis.exceptions import RedisError

from unet_factory.domain.errors import DeadlineExceeded, StorageUnavailable
from unet_factory.domain.jobs import PREVIEW_NAME, JobState, SegmentationRequest
from unet_factory.domain.problems import problem_of
from unet_factory.jobs.lease import Lease
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.volume import Volume, VolumeHeader, write_labelmap
from unet_factory.volume.dicom import DicomSeries
from unet_factory.volume.preview import draw_preview
from unet_factory_worker.child import WorkerContext
from unet_factory_worker.dicom_results import Provenance, write_dicom_results

log = logging.getLogger(__name__)

OVERRUN_S = 60.0
WRITE_INTERVAL_S = 0.25
_EXIT_STUCK = 3
_PUT_AT_ONCE = 3

T = TypeVar("T")


class JobLost(Exception):
    """The job was cancelled, purged, or given to another owner: stop, and write nothing."""


class JobHold:
    """Keeps a claimed job for the duration of the block.

    The deadline is cooperative: :meth:`check` raises between windows. A job that never gets there, because a read or a
    kernel hangs, is failed ``OVERRUN_S`` later and takes its process down, since nothing else ends it. ``beside`` is
    called four times a second, in a thread of its own.
    """

    def __init__(
        self,
        lifecycle: JobLifecycle,
        job_id: str,
        owner: str,
        lease_s: float,
        deadline_s: float,
        beside: Callable[[], None] = lambda: None,
    ) -> None:
        self._lifecycle, self._job_id, self._owner, self._deadline_s = lifecycle, job_id, owner, deadline_s
        self._beside, self._renew = beside, partial(lifecycle.renew, job_id, owner, lease_s)
        self._started = time.monotonic()
        self._lease = Lease(f"job {job_id}", self._renew, lease_s, beside=self._look_after)

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

    def renew(self) -> None:
        """Make sure of the lease, as before a result is put down.

        Raises:
            JobLost: the job is no longer ours.
            RedisError: nobody can say.
        """
        if not self._renew():
            raise JobLost

    def while_store_is_away(self, work: Callable[[], T]) -> T:
        """What ``work`` returns, which needs the blob store: tried again for as long as the job may take.

        Raises:
            JobLost, DeadlineExceeded: as :meth:`check`.
        """
        forever: dict[str, Any] = {"attempts": None, "timeout": None}
        for attempt in stamina.retry_context(StorageUnavailable, wait_initial=1.0, wait_max=10.0, **forever):
            with attempt:
                self.check()
                return work()
        raise AssertionError("it is tried for ever")

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._started

    def _overdue(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the job was stopped after {self._deadline_s:g} s, its deadline", deadline_s=self._deadline_s
        )

    def _look_after(self) -> None:
        self._beside()
        if self._age_s <= self._deadline_s + OVERRUN_S:
            return
        log.error("job %s hangs beyond its deadline; the worker process ends with it", self._job_id)
        try:
            self._lifecycle.finish(self._job_id, self._owner, JobState.FAILED, error=problem_of(self._overdue()))
        finally:
            os._exit(_EXIT_STUCK)


class JobRecord:
    """Of one attempt at a job; safe to share between threads.

    Each write costs the store, and all who follow the job, five commands and more.
    """

    def __init__(self, lifecycle: JobLifecycle, job_id: str, owner: str) -> None:
        self._lifecycle, self._job_id, self._owner = lifecycle, job_id, owner
        self._unwritten: dict[str, Any] = {}
        self._tried = time.monotonic()
        self._lock = threading.RLock()

    def note(self, **fields: Any) -> None:
        """Write fields now if nothing was written for ``WRITE_INTERVAL_S``, else with the next ones.

        Raises:
            JobLost: the job is no longer ours.
            RedisError: they cannot be written now; they are kept.
        """
        with self._lock:
            self._unwritten |= fields
            if time.monotonic() - self._tried >= WRITE_INTERVAL_S:
                self.write()

    def write(self) -> None:
        """Write what was noted. Raises like :meth:`note`."""
        with self._lock:
            if not self._unwritten:
                return
            self._tried = time.monotonic()
            if not self._lifecycle.update(self._job_id, self._owner, **self._unwritten):
                raise JobLost
            self._unwritten.clear()

    def finish(self, state: JobState, **fields: Any) -> None:
        """End the job with these fields and all that was noted. Raises like :meth:`note`."""
        with self._lock:
            if not self._lifecycle.finish(self._job_id, self._owner, state, **self._unwritten | fields):
                raise JobLost

    def write_if_due(self) -> None:
        """Write what was noted a while ago; in a thread beside the work, which it never waits for. Raises nothing."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            with suppress(JobLost, RedisError):
                self.note()
        finally:
            self._lock.release()


@dataclass
class ResultFiles:
    """Of one job, for the duration of the block. They are put into the store while further ones are made.

    Methods raise JobLost when the job is no longer ours; for what is still being put, :meth:`settle` does.
    """

    job_id: str
    request: SegmentationRequest
    context: WorkerContext
    lease: JobHold
    _folders: ExitStack = field(default_factory=ExitStack)
    _putting: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_PUT_AT_ONCE))
    _being_put: list[Future[None]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._putting.shutdown()
        self._folders.close()

    def write_labelmap(
        self, name: str, labels: NDArray[np.uint8], source: Path, header: VolumeHeader, *, more: bool = False
    ) -> None:
        """``more``: other files follow, and the store need not have it before :meth:`settle`."""
        labelmap = self._folder() / name
        write_labelmap(labelmap, labels, source, header, durable=False)  # the store sees to that
        if more:
            self._begin_to_put(labelmap)
        else:
            self._put(labelmap)

    def draw_preview(self, volume: Volume, labels: NDArray[np.uint8], found_ml: Mapping[str, float]) -> None:
        preview = self._folder() / PREVIEW_NAME
        draw_preview(preview, volume.data, labels, volume.spacing_ras_mm, found_ml)
        self._begin_to_put(preview)

    def write_dicom(
        self, labels: NDArray[np.uint8], found_ml: Mapping[str, float], series: DicomSeries, provenance: Provenance
    ) -> None:
        seg_type = self.request.seg_type
        for result in write_dicom_results(self._folder(), labels, found_ml, series, provenance, seg_type):
            self._begin_to_put(result)

    def settle(self) -> None:
        """All that was written is in the store when this returns."""
        for put in self._being_put:
            put.result()
        self._being_put.clear()

    def _folder(self) -> Path:
        """A new one for each result: one that is not written to for long is swept up."""
        return self._folders.enter_context(self.context.blobs.scratch())

    def _begin_to_put(self, result: Path) -> None:
        self._being_put.append(self._putting.submit(copy_context().run, self._put, result))

    def _put(self, result: Path) -> None:
        def put() -> None:
            self.lease.renew()
            self.context.blobs.put(self.job_id, result.name, result)

        self.lease.while_store_is_away(put)
