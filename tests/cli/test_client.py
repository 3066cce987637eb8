"""Both clients against a real HTTP server that misbehaves by script: what they try again, and what they never do."""

import inspect
import json
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from unet_factory.domain.jobs import Job, JobState, PolicyReport
from unet_factory.domain.spacing import OutsidePolicy
from unet_factory_client import AsyncFactoryClient, FactoryClient, FactoryProblem, SegmentationParameters

JOB = Job(id="j1", model="tiny", policy=PolicyReport(outside=OutsidePolicy.CLAMP), created=1.0, expires=2.0)
PROBLEM = {"type": "urn:x", "title": "No", "status": 422, "detail": "never", "allowed": [1, 2]}


@dataclass
class Answer:
    """One answer of the script; ``cut`` sends less than it promised and closes."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


class ScriptedServer(ThreadingHTTPServer):
    """Gives its answers in turn, and keeps what it was asked."""

    def __init__(self, connect: "Connect", *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked = list(answers), list[tuple[str, str, dict[str, str], bytes]]()
        self.received = 0
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.client = connect(self.url)


class Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def answer(self) -> None:
        body = self.read_body(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, dict(self.headers), body))
        answer = self.server.answers.pop(0)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body) + 1000 * answer.cut))
        self.end_headers()
        self.wfile.write(answer.body)
        self.close_connection = answer.cut

    def read_body(self, length: int) -> bytes:
        """Its first megabyte; the rest is read and counted."""
        kept = self.rfile.read(min(length, 2**20))
        self.server.received = len(kept)
        while self.server.received < length:
            self.server.received += len(self.rfile.read(min(length - self.server.received, 2**20)))
        return kept

    do_GET = do_POST = answer  # noqa: N815 (the names that the library calls)

    def log_message(self, *_: object) -> None:
        pass


class Awaited:
    """An asynchronous client, each of whose methods is awaited in the loop of ``portal``."""

    def __init__(self, portal: BlockingPortal, *args: Any, **kwargs: Any) -> None:
        self._portal = portal
        self._client = AsyncFactoryClient(*args, **kwargs)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def finish(*args: Any, **kwargs: Any) -> Any:
            result = getattr(self._client, name)(*args, **kwargs)
            return await result if inspect.isawaitable(result) else [each async for each in result]

        return lambda *args, **kwargs: self._portal.call(lambda: finish(*args, **kwargs))


Connect = Callable[..., FactoryClient]


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients of either kind, to be called like the blocking one."""
    with ExitStack() as stack:
        if request.param == "blocking":
            yield lambda *args, **kwargs: stack.enter_context(FactoryClient(*args, **kwargs))
            return
        portal = stack.enter_context(start_blocking_portal(request.param))

        def awaited(*args: Any, **kwargs: Any) -> FactoryClient:
            client = Awaited(portal, *args, **kwargs)
            stack.callback(client.aclose)
            return cast(FactoryClient, client)

        yield awaited


@pytest.fixture
def scripted(connect: Connect) -> Iterator[Callable[..., ScriptedServer]]:
    servers: list[ScriptedServer] = []

    def start(*answers: Answer) -> ScriptedServer:
        servers.append(ScriptedServer(connect, *answers))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.02}).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def job_answer(**fields: object) -> Answer:
    return Answer(JOB.model_copy(update=fields).model_dump_json().encode())


def events_answer(*jobs: Job, cut: bool = False) -> Answer:
    text = "".join(f"event: job\ndata: {job.model_dump_json()}\n\n" for job in jobs)
    return Answer(text.encode(), headers={"Content-Type": "text/event-stream"}, cut=cut)


@pytest.mark.parametrize("status", [429, 503])
def test_busy_is_tried_again_when_the_service_says(scripted: Callable[..., ScriptedServer], status: int) -> None:
    server = scripted(Answer(b"{}", status, {"Retry-After": "1"}), job_answer())
    started = time.monotonic()
    assert server.client.job("j1") == JOB
    assert 1 <= time.monotonic() - started < 3
    assert len(server.asked) == 2


def test_a_refusal_is_told_at_once_with_all_its_facts(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(Answer(json.dumps(PROBLEM).encode(), 422))
    with pytest.raises(FactoryProblem) as refused:
        server.client.unet((1, 1, 1))
    problem = refused.value
    assert (problem.type, problem.title, problem.status, problem.detail) == ("urn:x", "No", 422, "never")
    assert problem.details == {"allowed": [1, 2]}
    assert len(server.asked) == 1


@pytest.mark.parametrize("body", [b"", b'{"HttpError": "Not Found", "Message": "Unknown resource"}'])
def test_an_answer_that_is_no_gateways_makes_one_doubt_the_url(
    scripted: Callable[..., ScriptedServer], body: bytes
) -> None:
    """As of an Orthanc, whose port was taken for the gateway's."""
    server = scripted(Answer(body, 404))
    with pytest.raises(FactoryProblem, match=r"404 Not Found: .*is this the URL of one"):
        server.client.models()


def test_an_error_page_of_something_in_between_is_a_problem_too(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(Answer(b"<h1>bad gateway</h1>", 502))
    with pytest.raises(FactoryProblem, match="502 Bad Gateway: <h1>bad gateway"):
        server.client.models()


def test_an_upload_tried_again_is_the_same_upload_without_its_name(
    scripted: Callable[..., ScriptedServer], tmp_path: Path
) -> None:
    scan = tmp_path / "Doe^Jane.nii.gz"
    scan.write_bytes(b"voxels")
    server = scripted(Answer(b"{}", 503, {"Retry-After": "0"}), job_answer())
    server.client.submit(scan, SegmentationParameters(spacing_ras_mm=(1, 0.5, 2)))
    (_, _, first, _), (_, _, second, body) = server.asked
    assert first["Idempotency-Key"] == second["Idempotency-Key"]
    assert b"voxels" in body
    assert b"1.0,0.5,2.0" in body
    assert b"Doe" not in body


def test_an_upload_does_not_lie_in_memory(scripted: Callable[..., ScriptedServer], tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii"
    with scan.open("wb") as file:
        file.truncate(64 * 2**20)
    server = scripted(job_answer())
    tracemalloc.start()
    try:
        server.client.submit(scan)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert server.received > 64 * 2**20
    assert peak < 16 * 2**20


def test_following_a_job_outlives_broken_streams(scripted: Callable[..., ScriptedServer]) -> None:
    running = JOB.model_copy(update={"state": JobState.RUNNING, "progress": 0.5})
    done = JOB.model_copy(update={"state": JobState.SUCCEEDED, "progress": 1.0})
    server = scripted(
        job_answer(), events_answer(running, cut=True), job_answer(), job_answer(), events_answer(running, done)
    )
    seen: list[Job] = []
    assert server.client.wait("j1", seen.append) == done
    assert seen == [running, running, done]


def test_a_job_that_fails_raises_what_it_failed_of(scripted: Callable[..., ScriptedServer]) -> None:
    error = {"type": "urn:y", "title": "Too big", "detail": "17 voxels", "details": {"found": 17}}
    failed = JOB.model_dump(mode="json") | {"state": "failed", "error": error, "added_by_a_newer_service": 1}
    server = scripted(
        job_answer(), Answer(f"data: {json.dumps(failed)}\n\n".encode(), headers={"Content-Type": "text/event-stream"})
    )
    with pytest.raises(FactoryProblem, match="Too big: 17 voxels") as told:
        server.client.wait("j1")
    assert told.value.details == {"found": 17}
    assert told.value.status is None


def test_a_download_is_whole_or_not_there(
    scripted: Callable[..., ScriptedServer], connect: Connect, tmp_path: Path
) -> None:
    server = scripted(Answer(b"half", cut=True), Answer(b"whole"))
    server.client.labelmap("j1", tmp_path / "labels.nii.gz")
    assert (tmp_path / "labels.nii.gz").read_bytes() == b"whole"
    server = scripted(Answer(b"half", cut=True))
    with pytest.raises(httpx.TransportError):
        connect(server.url, retry_for_s=0).labelmap("j1", tmp_path / "other.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["labels.nii.gz"]


def test_both_clients_can_do_the_same() -> None:
    blocking, asynchronous = methods(FactoryClient), methods(AsyncFactoryClient)
    assert blocking.pop("close") == asynchronous.pop("aclose")
    assert blocking == asynchronous
    assert blocking["unet"][:2] == ["self", "spacing"]


def methods(client: type) -> dict[str, list[str]]:
    """The parameters of each public method."""
    return {
        name: list(inspect.signature(method).parameters)
        for name, method in inspect.getmembers(client, inspect.isfunction)
        if not name.startswith("_")
    }
