"""Traces are off unless a collector is named: nothing is imported for them. What is in a span is harmless."""

import subprocess
import sys

import pytest

from tests.fixtures.webhook_receiver import receiving

# FastAPI and redis import parts of OpenTelemetry on their own.
_ROLES = """
import sys
import unet_factory_courier.courier_role, unet_factory_listener.listener_role, unet_factory_service.app
import unet_factory_worker.celery_app
from unet_factory.domain.jobs import Origin
from unet_factory.platform.following import following, origin_of_new_work
from unet_factory.platform.tracing import start_tracing, trace_headers
start_tracing("", "gateway")
with following(Origin(request_id="first", traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01"), "GET"):
    assert origin_of_new_work() == Origin(request_id="first")
    assert trace_headers() == {}
print([name for name in sys.modules if name.startswith(("opentelemetry.exporter", "opentelemetry.sdk.trace"))])
"""

_FAILING = """
import sys
from unet_factory.platform.tracing import span, start_tracing, stop_tracing
start_tracing(sys.argv[1], "worker")
try:
    with span("load"):
        raise ValueError("patient DOE^JANE")
except ValueError:
    stop_tracing()
"""


def test_without_a_collector_no_role_imports_what_makes_and_sends_traces() -> None:
    run = subprocess.run([sys.executable, "-c", _ROLES], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_span_tells_an_errors_type_and_not_its_text() -> None:
    trace_service = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="needs the extra tracing"
    )
    with receiving(200) as collector:
        url = f"http://{collector.host}:{collector.port}/v1/traces"
        subprocess.run([sys.executable, "-c", _FAILING, url], check=True)
    ((_, _, body),) = collector.requests
    assert b"DOE" not in body
    (of_worker,) = trace_service.ExportTraceServiceRequest.FromString(body).resource_spans
    (span,) = of_worker.scope_spans[0].spans
    assert (span.name, span.status.message) == ("load", "ValueError")
