"""Carry a trace from capture to run: W3C trace context in record headers, spans where asked for.

A record's `ce_traceparent` header says which trace it belongs to, as CloudEvents' distributed
tracing extension has it. It is always carried on; spans are made and exported (OTLP over HTTP) only
where OTEL_EXPORTER_OTLP_ENDPOINT is set, and only then is OpenTelemetry's SDK imported: that takes
0.3 s and 17 MB. Its other OTEL_* variables hold too.

A span names the room, the topic, the kind of work and how much of it: never content, no exception
message. A `tracestate` is not carried: anything may stand in it.

Source: W3C Trace Context, section 3.2; CloudEvents 1.0.2, distributed tracing extension;
OpenTelemetry's semantic conventions for messaging.
"""

import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

from shared.topics import Room

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Tracer

__all__ = [
    "HEADER",
    "Exporter",
    "Kind",
    "context_of",
    "continued",
    "current",
    "export_if_asked",
    "span",
]

HEADER = "ce_traceparent"
Kind = Literal["internal", "producer", "consumer"]

_ASKED_BY = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SHAPE = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_FLUSH_S = 3.0
"""How long a process that ends waits for a collector that may be away."""

_context: ContextVar[str | None] = ContextVar("traceparent", default=None)
_exporter: "Exporter | None" = None


def current() -> str | None:
    """Return the `traceparent` of what is under way, if it belongs to a trace."""
    return _context.get()


def context_of(headers: Mapping[str, bytes] | tuple[tuple[str, bytes], ...]) -> str | None:
    """Return the `traceparent` that a record carries; None for none, or what is not one."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    for name, value in pairs:
        if name == HEADER and _SHAPE.fullmatch(value):
            return value.decode()
    return None


@contextmanager
def span(
    room: Room, name: str, parent: str | None, kind: Kind = "internal", **attributes: str | int
) -> Iterator[None]:
    """Do something as a part of the trace of `parent`, or as the beginning of a new one.

    In the names of `attributes` a double underscore stands for the dot.
    """
    if _exporter is not None:
        with _exporter.span(room, name, parent, kind, attributes) as context, continued(context):
            yield
    else:
        with continued(parent or _new_context()):
            yield


@contextmanager
def continued(context: str | None) -> Iterator[None]:
    """Do something within the trace of `context`, without a span of its own."""
    before = _context.set(context)
    try:
        yield
    finally:
        _context.reset(before)


@contextmanager
def export_if_asked(rooms: tuple[Room, ...]) -> Iterator[None]:
    """Export the spans of `rooms` meanwhile, where the environment names an endpoint."""
    global _exporter
    if not any(os.environ.get(name) for name in _ASKED_BY):
        yield
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    sender = OTLPSpanExporter()
    processor = BatchSpanProcessor(sender)
    _exporter = Exporter(rooms, processor)
    try:
        yield
    finally:
        _exporter = None
        sending = threading.Thread(target=processor.shutdown, daemon=True)
        sending.start()
        sending.join(_FLUSH_S)
        if sending.is_alive():  # it would try for half a minute
            sender.shutdown()  # type: ignore[no-untyped-call]


class Exporter:
    """Makes spans by OpenTelemetry's SDK; each room is a service of its own."""

    def __init__(self, rooms: tuple[Room, ...], processor: "SpanProcessor") -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        self._tracers: dict[Room, Tracer] = {}
        for room in rooms:
            resource = Resource.create(
                {"service.name": str(room), "service.namespace": "wasmagenttrainer"}
            )
            provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            provider.add_span_processor(processor)
            self._tracers[room] = provider.get_tracer("wasmagenttrainer")

    @contextmanager
    def span(
        self,
        room: Room,
        name: str,
        parent: str | None,
        kind: Kind,
        attributes: Mapping[str, str | int],
    ) -> Iterator[str]:
        """Record a span; gives its context as a `traceparent`."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        kinds = {
            "internal": SpanKind.INTERNAL,
            "producer": SpanKind.PRODUCER,
            "consumer": SpanKind.CONSUMER,
        }
        recorded = self._tracers[room].start_span(
            name,
            context=_parent_context(parent),
            kind=kinds[kind],
            attributes={key.replace("__", "."): value for key, value in attributes.items()},
            record_exception=False,
            set_status_on_exception=False,
        )
        made = recorded.get_span_context()
        try:
            yield f"00-{made.trace_id:032x}-{made.span_id:016x}-{int(made.trace_flags):02x}"
        except BaseException as error:
            recorded.set_attribute("error.type", type(error).__name__)
            recorded.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            recorded.end()


def _parent_context(parent: str | None) -> "Context":
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if parent is None:
        return Context()
    return TraceContextTextMapPropagator().extract({"traceparent": parent}, Context())


def _new_context() -> str:
    """Return the context of a new trace.

    Flagged as sampled: whoever handles the record further on may be one that exports.
    """
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
