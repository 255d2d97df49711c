"""OpenTelemetry's SDK in memory, of whichever version is installed."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk import _logs
from opentelemetry.sdk._logs import export as logs_export
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

# The names changed more than once.
LogMemory: Any = getattr(logs_export, "InMemoryLogRecordExporter", None) or logs_export.InMemoryLogExporter
SESSION = "sessionwatch.session"


class Otel:
    """A tracer, a meter and a logger provider, and what they exported."""

    def __init__(self, **options: Any) -> None:
        self.span_exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False, **options)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.span_exporter))
        self.log_exporter = LogMemory()
        self.logger_provider = _logs.LoggerProvider(shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(logs_export.SimpleLogRecordProcessor(self.log_exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracer = self.tracer_provider.get_tracer("program")

    @property
    def providers(self) -> dict[str, Any]:
        """As the instrumentor takes them."""
        names = ("tracer_provider", "meter_provider", "logger_provider")
        return {name: getattr(self, name) for name in names}

    @property
    def spans(self) -> list[ReadableSpan]:
        """All that has ended."""
        return list(self.span_exporter.get_finished_spans())

    @property
    def sessions(self) -> list[ReadableSpan]:
        """Those of sessions."""
        return [span for span in self.spans if span.name == SESSION]

    @property
    def session(self) -> ReadableSpan:
        """The only one of a session."""
        (span,) = self.sessions
        return span

    def named(self, name: str) -> ReadableSpan:
        """The only span of a name."""
        (span,) = [span for span in self.spans if span.name == name]
        return span

    @property
    def logs(self) -> list[Any]:
        """The log records."""
        return [data.log_record for data in self.log_exporter.get_finished_logs()]

    def shutdown(self) -> None:
        """End all three."""
        self.tracer_provider.shutdown()
        self.logger_provider.shutdown()
        self.meter_provider.shutdown()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """A span's attributes."""
    return dict(span.attributes or {})


def parent_id(span: ReadableSpan) -> int | None:
    """The id of the span that a span is a child of."""
    return span.parent.span_id if span.parent is not None else None
