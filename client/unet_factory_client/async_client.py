"""The client for ``async`` code, on asyncio: the calls of :mod:`.calls`, sent without blocking the loop."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from unet_factory.domain.jobs import Job, JobState
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory.platform.atomic_files import sync, whole_file
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
) -> "Callable[Concatenate[AsyncFactoryClient, _Arguments], Coroutine[Any, Any, _Answer]]":
    """A method that sends the call that ``describe`` describes."""

    @documented_by(describe)
    async def method(self: "AsyncFactoryClient", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Answer:
        return await self._result(describe(*args, **kwargs))

    return method


class AsyncFactoryClient:
    """:class:`FactoryClient` for ``async`` code: the same methods, to be awaited; an asynchronous context manager.

    For asyncio. Files are read and written, and folders packed, in threads. Several jobs may be followed at a time.
    """

    def __init__(
        self, base_url: str = DEFAULT_URL, *, api_key: str | None = None, retry_for_s: float = RETRY_FOR_S
    ) -> None:
        self._http = httpx.AsyncClient(**connection(base_url, api_key))
        self._retry_for_s = retry_for_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def segment(
        self,
        scan: Scan | None,
        to: Target | None = None,
        parameters: SegmentationParameters = _NO_PARAMETERS,
        *,
        on_progress: OnProgress | None = None,
    ) -> Job:
        """Segment a scan and write its label map, as :meth:`FactoryClient.segment` does."""
        job = await self.wait((await self.submit(scan, parameters)).id, on_progress)
        if to is not None:
            await self.labelmap(job.id, to)
        return job

    async def wait(self, job_id: str, on_progress: OnProgress | None = None) -> Job:
        """Follow a job to its end, as :meth:`FactoryClient.wait` does."""
        from anyio import sleep

        while not (job := await self._follow(job_id, on_progress)).state.final:
            await sleep(RECONNECT_S)
        return succeeded(job)

    async def jobs(self, *states: JobState, page_size: int = 50) -> AsyncGenerator[Job, None]:
        """Your jobs, the newest first; only those in one of ``states`` where any are given."""
        cursor: str | None = None
        while True:
            page = await self._result(calls.jobs_page(states, page_size, cursor))
            for job in page.jobs:
                yield job
            if (cursor := page.next) is None:
                return

    async def events(self, job_id: str) -> AsyncGenerator[Job, None]:
        """The job now and whenever it changes, until it is final or the connection ends."""
        from httpx_sse import aconnect_sse

        async with aconnect_sse(self._http, "GET", calls.events_path(job_id)) as source:
            if source.response.is_error:
                await source.response.aread()
            raise_for_problem(source.response)
            async with aclosing(source.aiter_sse()) as events:
                async for event in events:
                    if (job := job_of_event(event)) is not None:
                        yield job

    async def ready(self) -> bool:
        """Whether the gateway could serve a request now; never raises, never tries again."""
        try:
            return await self._result(calls.readiness())
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

    async def _follow(self, job_id: str, on_progress: OnProgress | None) -> Job:
        """The job's state when its event stream ended, for whatever reason."""
        job = await self.job(job_id)
        try:
            async with aclosing(self.events(job_id)) as events:
                async for job in events:
                    if on_progress is not None:
                        on_progress(job)
                    if job.state.final:
                        return job
        except breaks():
            return await self.job(job_id)
        return job

    async def _result(self, call: Call[_Answer]) -> _Answer:
        from anyio import to_thread

        with ExitStack() as files:
            upload = await to_thread.run_sync(files.enter_context, call.upload())
            while call.again(response := await self._answer(call, upload)):
                pass
        return call.parse(response)

    async def _answer(self, call: Call[_Answer], upload: Path | None) -> httpx.Response:
        from stamina import AsyncRetryingCaller

        again = AsyncRetryingCaller(**persistence(self._retry_for_s if call.persistent else 0))
        return await again(worth_retrying, self._send, call, upload)

    async def _send(self, call: Call[_Answer], upload: Path | None) -> httpx.Response:
        with call.request(self._http, upload) as request:
            if upload is not None:
                request.stream = _InThread(request.stream)
            response = await self._http.send(request, stream=True)
        try:
            if call.to is None or response.is_error:
                await response.aread()
            raise_for_problem(response)
            if call.to is not None:
                await _save(response, call.to)
        finally:
            await response.aclose()
        return response


class _InThread(httpx.AsyncByteStream):
    """A request's body whose chunks are read from their file in a thread, one at a time.

    httpx streams forms in ``async`` code too, but reads their files in the event loop.
    """

    def __init__(self, form: httpx.SyncByteStream | httpx.AsyncByteStream) -> None:
        assert isinstance(form, httpx.SyncByteStream)  # a form's body is both
        self._form = form

    async def __aiter__(self) -> AsyncIterator[bytes]:
        from anyio import to_thread

        chunks = iter(self._form)
        while (chunk := await to_thread.run_sync(next, chunks, None)) is not None:
            yield chunk


async def _save(response: httpx.Response, to: Path) -> None:
    """Write the body to a file: whole or not at all."""
    from anyio import to_thread

    with whole_file(to, durable=False) as partial:
        with partial.open("wb") as file:
            async for chunk in response.aiter_bytes():
                await to_thread.run_sync(file.write, chunk)
        await to_thread.run_sync(sync, partial)
    await to_thread.run_sync(sync, to.parent)
