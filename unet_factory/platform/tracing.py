"""Traces by OpenTelemetry, for those who name a collector; otherwise nothing is imported for them, and no span made.

Span names and attributes are routes, stages, models and job ids; an error is told by its type alone, as its message may
quote a scan's header.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Literal

from unet_factory.platform.logs import OncePerMinute

Kind = Literal["internal", "server", "client", "consumer"]

_HEADER = "traceparent"  # W3C Trace Context
_EXPORT_LOGS = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
_tracer: Any = None
_provider: Any = None


def start_tracing(collector_url: str, role: str) -> None:
    """Send this process's spans to a collector by OTLP over HTTP; with an empty URL do nothing.

    To be called after a fork, not before. ``OTEL_*`` variables (sampler, headers, certificates) work as always.

    Raises:
        RuntimeError: the extra ``tracing`` is not installed.
    """
    global _tracer, _provider
    if not collector_url:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise RuntimeError("UNET_FACTORY_TRACES_URL needs OpenTelemetry: install 'unet-factory[tracing]'") from error
    for name in _EXPORT_LOGS:
        logging.getLogger(name).addFilter(OncePerMinute())
    of_us = {"service.name": f"unet-factory-{role}", "service.version": version("unet-factory")}
    _provider = TracerProvider(resource=Resource.create(of_us))
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector_url)))
    _tracer = _provider.get_tracer("unet_factory")


def stop_tracing() -> None:
    """Send what is left, in processes that end without Python's own clearing up."""
    if _provider is not None:
        _provider.shutdown()


@contextmanager
def span(name: str, parent: str = "", kind: Kind = "internal", **attributes: str) -> Iterator[None]:
    """Time the block as a span.

    Args:
        name: empty for none.
        parent: ``traceparent`` of the span that led to this one; the one that this block stands in by default.
    """
    if _tracer is None or not name:
        yield
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode

    known = {name: value for name, value in attributes.items() if value}
    with _tracer.start_as_current_span(
        name,
        context=_remote(parent) if parent else None,
        kind=SpanKind[kind.upper()],
        attributes=known,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield
        except Exception as error:
            current.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def describe_span(name: str = "", attributes: Mapping[str, str | int] = {}) -> None:
    """Give the current span attributes, and a name, that were not known when it began."""
    if _tracer is None:
        return
    from opentelemetry.trace import get_current_span

    current = get_current_span()
    if name:
        current.update_name(name)
    current.set_attributes(attributes)


def traceparent() -> str:
    """Of the current span, to be sent or stored with the work that it leads to; empty without one."""
    return trace_headers().get(_HEADER, "")


def trace_headers() -> dict[str, str]:
    """The HTTP headers that continue the current trace elsewhere."""
    headers: dict[str, str] = {}
    if _tracer is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers)
    return headers


def _remote(parent: str) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({_HEADER: parent})
