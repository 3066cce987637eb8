"""Segment scans and fetch networks over HTTP."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

import httpx

from unet_factory.domain.jobs import Job, JobState
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory.platform.atomic_files import whole_file
from unet_factory_client import calls
from unet_factory_client.call import Call, documented_by
from unet_factory_client.connection import DEFAULT_URL, connection
from unet_factory_client.files import Scan, Target
from unet_factory_client.following import RECONNECT_S, OnProgress, breaks, job_of_event, succeeded
from unet_factory_client.problems import FactoryProblem
from unet_factory_client.retries import RETRY_FOR_S, persistence, raise_for_problem, worth_retrying

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")

_NO_PARAMETERS = SegmentationParameters()


def _sends(
    describe: Callable[_Arguments, Call[_Answer]],
) -> "Callable[Concatenate[FactoryClient, _Arguments], _Answer]":
    """A method that sends the call that ``describe`` describes."""

    @documented_by(describe)
    def method(self: "FactoryClient", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Answer:
        return self._result(describe(*args, **kwargs))

    return method


class FactoryClient:
    """Synchronous; a context manager. Connections refused and answers 429 and 503 are tried again for ``retry_for_s``.

    Every method raises :class:`FactoryProblem` for what the gateway refuses and ``httpx.TransportError`` when it
    cannot be reached. :class:`AsyncFactoryClient` is its twin for ``async`` code.
    """

    def __init__(
        self, base_url: str = DEFAULT_URL, *, api_key: str | None = None, retry_for_s: float = RETRY_FOR_S
    ) -> None:
        self._http = httpx.Client(**connection(base_url, api_key))
        self._retry_for_s = retry_for_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def segment(
        self,
        scan: Scan | None,
        to: Target | None = None,
        parameters: SegmentationParameters = _NO_PARAMETERS,
        *,
        on_progress: OnProgress | None = None,
    ) -> Job:
        """Segment a scan and write its label map, on the scan's own grid, to ``to``.

        Args:
            scan: see :meth:`submit`.
            to: a file whose name says nothing of its format, which ``parameters.output`` decides; without one, see
                :meth:`label_image`.
            on_progress: called with the job whenever it has changed.

        Raises:
            FactoryProblem: it was refused, failed or was cancelled.
            NotAVolume: a folder without DICOM files.
        """
        job = self.wait(self.submit(scan, parameters).id, on_progress)
        if to is not None:
            self.labelmap(job.id, to)
        return job

    def wait(self, job_id: str, on_progress: OnProgress | None = None) -> Job:
        """Follow a job to its end; outlives a restart of the gateway.

        Raises:
            FactoryProblem: it failed, was cancelled, or is unknown.
        """
        while not (job := self._follow(job_id, on_progress)).state.final:
            time.sleep(RECONNECT_S)
        return succeeded(job)

    def jobs(self, *states: JobState, page_size: int = 50) -> Iterator[Job]:
        """Your jobs, the newest first; only those in one of ``states`` where any are given."""
        cursor: str | None = None
        while True:
            page = self._result(calls.jobs_page(states, page_size, cursor))
            yield from page.jobs
            if (cursor := page.next) is None:
                return

    def events(self, job_id: str) -> Iterator[Job]:
        """The job now and whenever it changes, until it is final or the connection ends."""
        from httpx_sse import connect_sse

        with connect_sse(self._http, "GET", calls.events_path(job_id)) as source:
            if source.response.is_error:
                source.response.read()
            raise_for_problem(source.response)
            for event in source.iter_sse():
                if (job := job_of_event(event)) is not None:
                    yield job

    def ready(self) -> bool:
        """Whether the gateway could serve a request now; never raises, never tries again."""
        try:
            return self._result(calls.readiness())
        except (FactoryProblem, httpx.TransportError):
            return False

    check = _sends(calls.check)
    submit = _sends(calls.submit)
    job = _sends(calls.job)
    labelmap = _sends(calls.labelmap)
    label_image = _sends(calls.label_image)
    coarse_labelmap = _sends(calls.coarse_labelmap)
    seg = _sends(calls.seg)
    report = _sends(calls.report)
    preview = _sends(calls.preview)
    delete = _sends(calls.delete)
    unet = _sends(calls.unet)
    models = _sends(calls.models)
    model = _sends(calls.model)
    status = _sends(calls.status)
    quote = _sends(calls.quote)
    deliveries = _sends(calls.deliveries)
    replay = _sends(calls.replay)

    def _follow(self, job_id: str, on_progress: OnProgress | None) -> Job:
        """The job's state when its event stream ended, for whatever reason."""
        job = self.job(job_id)
        try:
            for job in self.events(job_id):
                if on_progress is not None:
                    on_progress(job)
                if job.state.final:
                    return job
        except breaks():
            return self.job(job_id)
        return job

    def _result(self, call: Call[_Answer]) -> _Answer:
        with call.upload() as upload:
            while call.again(response := self._answer(call, upload)):
                pass
        return call.parse(response)

    def _answer(self, call: Call[_Answer], upload: Path | None) -> httpx.Response:
        from stamina import RetryingCaller

        again = RetryingCaller(**persistence(self._retry_for_s if call.persistent else 0))
        return again(worth_retrying, self._send, call, upload)

    def _send(self, call: Call[_Answer], upload: Path | None) -> httpx.Response:
        with call.request(self._http, upload) as request:
            response = self._http.send(request, stream=True)
        try:
            if call.to is None or response.is_error:
                response.read()
            raise_for_problem(response)
            if call.to is not None:
                with whole_file(call.to) as partial, partial.open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
        finally:
            response.close()
        return response
