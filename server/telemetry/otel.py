"""Spans for OpenTelemetry, exported over OTLP/HTTP. Needs the extra ``otel``."""

from __future__ import annotations

import hmac
import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace import Span as RecordedSpan
from opentelemetry.util.types import Attributes as OtelAttributes

from server import __version__
from server.telemetry.tracing import Attributes, Kind

log = logging.getLogger("tryon.traces")

EXPORT_SECONDS: Final = 5.0
"""Longest call to the collector. Spans wait in memory meanwhile: 2,048, then the newest
are dropped.
"""

_KINDS: Final = {"server": SpanKind.SERVER, "consumer": SpanKind.CONSUMER}


class OtelSpan:
    """A span of OpenTelemetry's."""

    __slots__ = ("_span",)

    def __init__(self, span: RecordedSpan) -> None:
        self._span = span

    def __repr__(self) -> str:
        return f"<OtelSpan {self.traceparent}>"

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def set(self, attributes: Attributes, *, name: str | None = None, failed: bool = False) -> None:
        """Add attributes; rename the span; mark it as failed."""
        self._span.set_attributes(attributes)
        if name is not None:
            self._span.update_name(name)
        if failed:
            self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        """End the span."""
        self._span.end()


class OtelTracer:
    """The exporter of this process's spans.

    ``share`` and ``key``: of :class:`KeyedShare`, the same in web and worker.
    """

    def __init__(self, url: str, headers: Mapping[str, str], *, share: float, key: bytes, part: str) -> None:
        for name in ("opentelemetry.exporter", "opentelemetry.sdk"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # a line for each batch; ours is one an outage
        resource = Resource(
            {
                "service.name": f"tryon-{part}",
                "service.version": __version__,
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            }
        )
        exporter = _SaidOnce(OTLPSpanExporter(endpoint=url, headers=dict(headers), timeout=EXPORT_SECONDS))
        self._provider = TracerProvider(sampler=KeyedShare(share, key), resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tryon", __version__)

    def __repr__(self) -> str:
        return "<OtelTracer>"

    def start(self, name: str, kind: Kind, parent: str | None, attributes: Attributes) -> OtelSpan:
        """Begin a span."""
        context = None
        if parent is not None:
            _, trace_id, span_id, flags = parent.split("-")
            remote = SpanContext(
                int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
            )
            context = set_span_in_context(NonRecordingSpan(remote))
        return OtelSpan(self._tracer.start_span(name, context, _KINDS[kind], dict(attributes)))

    def close(self, seconds: float) -> None:
        """Export what waits, for at most ``seconds``; the rest is lost."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(seconds)


class KeyedShare(Sampler):
    """Records a share of all traces, by a keyed hash of their ids.

    Processes with the same key keep the same traces. A client chooses its trace's id,
    and could choose one that a plain share of ids always keeps.
    """

    def __init__(self, share: float, key: bytes) -> None:
        self._below = round(share * 2**64)
        self._key = key

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: OtelAttributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Return whether the trace is recorded; nothing else of it is looked at."""
        drawn = int.from_bytes(hmac.digest(self._key, trace_id.to_bytes(16, "big"), "sha256")[:8], "big")
        kept = drawn < self._below
        return SamplingResult(Decision.RECORD_AND_SAMPLE if kept else Decision.DROP, attributes if kept else None)

    def get_description(self) -> str:
        """Return the sampler's name."""
        return "KeyedShare"


class _SaidOnce(SpanExporter):
    """An exporter whose failures are one log line an outage."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        failing = result is not SpanExportResult.SUCCESS
        if failing and not self._failing:
            log.warning("Traces cannot be exported; they are dropped until the collector answers")
        elif self._failing and not failing:
            log.info("Traces are exported again")
        self._failing = failing
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
