"""A request followed over all roles, in their logs and by its trace; and one line when a store is away."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np
import pytest
import yaml

from tests.fixtures.dicom_files import mr_series
from tests.fixtures.webhook_receiver import SECRET, Receiver, receiving
from tests.listener.peer import association, send
from tests.system.gateway_process import answers
from tests.system.processes import free_port, until
from tests.system.serve_process import environment
from unet_factory_cli.embedded import JOBS_OPTIONS, EmbeddedServer
from unet_factory_listener.options import ListenerOptions

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra tracing")

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]

ROLES = ("gateway", "worker", "courier", "listener")
STAGES = {"fetch", "load", "weights", "infer", "write"}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Factory:
    """All roles as processes of their own, each with a log of its own."""

    folder: Path
    store: EmbeddedServer
    collector: Receiver
    receiver: Receiver
    options: ListenerOptions
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.options.gateway_url

    def start(self, role: str, *arguments: str, **settings: object) -> None:
        given = environment(**settings) | {"WEBHOOK_SECRET": SECRET, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with (self.folder / f"{role}.log").open("wb") as log:
            command = [sys.executable, "-m", "unet_factory_cli", *(arguments or (role,))]
            self.processes.append(subprocess.Popen(command, env=given, stdout=subprocess.DEVNULL, stderr=log))

    def lines(self, role: str) -> list[dict[str, Any]]:
        text = (self.folder / f"{role}.log").read_text()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def spans(self) -> list[tuple[str, Any]]:
        """All that were sent, each with the role that made it."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        return [
            (attribute.value.string_value.removeprefix("unet-factory-"), span)
            for _, _, body in list(self.collector.requests)
            for of_process in ExportTraceServiceRequest.FromString(body).resource_spans
            for attribute in of_process.resource.attributes
            if attribute.key == "service.name"
            for scope in of_process.scope_spans
            for span in scope.spans
        ]


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Factory]:
    folder = tmp_path_factory.mktemp("following")
    options = ListenerOptions(
        ae_title="UNETFACTORY",
        allowed=("SCANNER",),
        host="127.0.0.1",
        port=free_port(),
        spool=folder / "spool",
        gateway_url=f"http://127.0.0.1:{free_port()}",
        quiet_s=0.2,
    )
    store = EmbeddedServer.start(folder / "redis", JOBS_OPTIONS)
    with receiving(*[200] * 1000) as collector, receiving() as receiver:
        factory = Factory(folder, store, collector, receiver, options)
        try:
            _start_all(factory, tiny_models)
            yield factory
        finally:
            for process in factory.processes:
                process.terminate()
            for process in factory.processes:
                process.wait(30)
            factory.store.stop()


def _start_all(factory: Factory, models: Path) -> None:
    folder, options = factory.folder, factory.options
    webhooks = {"allow": ["127.0.0.1"], "schemes": ["http"], "secrets": [{"env": "WEBHOOK_SECRET"}]}
    (folder / "destinations.yml").write_text(yaml.safe_dump({"webhooks": webhooks}))
    rule = {"match": {"modality": "MR"}, "model": "tiny", "callback_url": factory.receiver.url}
    (folder / "routing.yml").write_text(yaml.safe_dump({"rules": [rule]}))
    settings = {
        "redis_url": factory.store.redis_url,
        "blob_url": (folder / "blobs").as_uri(),
        "models_dir": models,
        "destinations": folder / "destinations.yml",
        "routing": folder / "routing.yml",
        "traces_url": f"http://{factory.collector.host}:{factory.collector.port}/v1/traces",
        "log_format": "json",
        "device": "cpu",
        "threads": 1,
        "calibrate": False,
        "series_quiet_s": 0.2,
    }
    factory.start("worker", **settings)
    factory.start("courier", **settings)
    factory.start("gateway", "gateway", "--port", options.gateway_url.rpartition(":")[2], **settings)
    listen = ["--allow", "SCANNER", "--spool", str(options.spool), "--port", str(options.port)]
    factory.start("listener", "dicom-listen", *listen, "--url", options.gateway_url, **settings)
    until(lambda: answers("127.0.0.1", int(options.gateway_url.rpartition(":")[2]), 10), 60)
    until(lambda: httpx.get(f"{factory.url}/readyz", trust_env=False).is_success, 120)
    until(lambda: any("listening" in line["message"] for line in factory.lines("listener")), 60)


def test_an_upload_is_followed_through_gateway_worker_and_courier(factory: Factory) -> None:
    headers = {"X-Request-ID": "ward-3.17", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    job_id = upload(factory, headers)
    until(lambda: all(named(factory, role, request="ward-3.17", job=job_id) for role in ROLES[:3]))
    (request,) = until(lambda: spans_of(factory, TRACE, "gateway", "POST /segmentations"))
    assert request.parent_span_id.hex() == PARENT
    (segment,) = until(lambda: spans_of(factory, TRACE, "worker", "segment"))
    (deliver,) = until(lambda: spans_of(factory, TRACE, "courier", "deliver webhook"))
    parents = {span.span_id.hex(): span.parent_span_id.hex() for _, span in factory.spans()}
    for span in (segment, deliver):
        assert parents[span.span_id.hex()] == request.span_id.hex()
        assert attributes(span)["job.id"] == job_id
    stages = {s.name for s in spans_of(factory, TRACE, "worker") if s.parent_span_id == segment.span_id}
    assert stages == STAGES
    ((_, told, _),) = [request for request in factory.receiver.requests if job_id in request[2].decode()]
    assert told["traceparent"].split("-")[1:3] == [TRACE, deliver.span_id.hex()]


def test_a_series_is_followed_from_the_listener_to_the_delivery(factory: Factory) -> None:
    with association(factory.options) as sender:
        for instance in mr_series(4):
            assert send(sender, instance) == 0
    (forwarded,) = until(lambda: [one for one in factory.lines("listener") if "was forwarded" in one["message"]])
    until(lambda: all(named(factory, role, request=forwarded["request"]) for role in ROLES))
    (first,) = [span for role, span in factory.spans() if role == "listener"]
    until(lambda: {role for role, s in factory.spans() if s.trace_id == first.trace_id} == set(ROLES))
    jobs = {line["job"] for role in ROLES for line in named(factory, role, request=forwarded["request"], job=None)}
    assert len(jobs) == 1


def test_an_ordered_network_is_followed_to_the_worker(factory: Factory) -> None:
    headers = {"traceparent": f"00-{TRACE[::-1]}-{PARENT}-01", "Prefer": "wait=30"}
    spacing = {"spacing": "0.85,1.2,1.3"}
    assert httpx.get(f"{factory.url}/unet", params=spacing, headers=headers, trust_env=False, timeout=60).is_success
    (made,) = until(lambda: spans_of(factory, TRACE[::-1], "worker", "generate"))
    (asked,) = until(lambda: spans_of(factory, TRACE[::-1], "gateway", "GET /unet"))
    assert made.parent_span_id == asked.span_id


def test_a_store_that_is_away_costs_each_process_two_lines_that_name_it(factory: Factory) -> None:
    """Last: it takes the store away. Every role asks for it all the time, the gateway for each request, too."""
    before = {role: len(factory.lines(role)) for role in ROLES}
    factory.store.stop()
    for _ in range(20):
        for path in ("/status", "/readyz", "/metrics", "/segmentations"):
            httpx.get(f"{factory.url}{path}", trust_env=False, timeout=30)
        time.sleep(0.1)
    factory.store = EmbeddedServer.start(factory.folder / "redis", JOBS_OPTIONS)
    until(lambda: httpx.get(f"{factory.url}/readyz", trust_env=False).is_success, 120)
    for role, processes in {"gateway": 1, "worker": 2, "courier": 1}.items():
        until(lambda role=role, n=processes: len(outage(factory, role, "is available again")) == n)  # type: ignore[misc]
        assert len(outage(factory, role, "is not available and is waited for")) == processes
        others = [line for line in factory.lines(role)[before[role] :] if "unet_factory" in line["logger"]]
        assert len(others) == 2 * processes, others
    assert len(factory.lines("worker")) < before["worker"] + 10  # Celery's own
    assert upload(factory, {})


def upload(factory: Factory, headers: dict[str, str]) -> str:
    scan = factory.folder / "scan.nii.gz"
    voxels = np.random.default_rng(0).normal(size=(20, 18, 16)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.1, 1.2, 1.0])), scan)
    form = {"model": "tiny", "callback_url": factory.receiver.url}
    with scan.open("rb") as file:
        answer = httpx.post(
            f"{factory.url}/segmentations",
            files={"file": file},
            data=form,
            headers=headers | {"Prefer": "wait=60"},
            trust_env=False,
            timeout=90,
        )
    assert answer.json().get("state") == "succeeded", answer.text
    return str(answer.json()["id"])


def named(factory: Factory, role: str, **fields: str | None) -> list[dict[str, Any]]:
    """The role's log lines with these fields; None: any value."""
    return [
        line
        for line in factory.lines(role)
        if all(name in line and value in (None, line[name]) for name, value in fields.items())
    ]


def outage(factory: Factory, role: str, words: str) -> list[dict[str, Any]]:
    """Lines about the store, whose address they give."""
    store = f"Redis at {factory.folder / 'redis' / 'socket'}"
    return [line for line in factory.lines(role) if words in line["message"] and line["message"].startswith(store)]


def spans_of(factory: Factory, trace: str, role: str, name: str = "") -> list[Any]:
    return [
        span
        for of_role, span in factory.spans()
        if of_role == role and span.trace_id.hex() == trace and name in ("", span.name)
    ]


def attributes(span: Any) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in span.attributes}
