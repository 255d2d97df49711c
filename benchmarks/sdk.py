"""OpenTelemetry's SDK as a service sets it up: spans in batches, metrics by a periodic reader, exported to nowhere."""

from __future__ import annotations

from typing import Any

from .databases import UnavailableError

NONE, UNSAMPLED, SAMPLED = "no SDK", "SDK, unsampled", "SDK, sampled"
KINDS = (NONE, UNSAMPLED, SAMPLED)
SPAN = "span"  # the mode that makes the span of a session a request, and nothing else
makes_span = False  # whether this process is in it
chosen: str | None = None  # what this process was started with


def start(kind: str) -> None:
    """Set the global providers of one of `KINDS`; sampling is that of the request's span."""
    global chosen
    chosen = kind
    if kind == NONE:
        return
    try:
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.trace import TracerProvider, sampling
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise UnavailableError(str(error)) from error
    root = sampling.ALWAYS_ON if kind == SAMPLED else sampling.ALWAYS_OFF
    spans = TracerProvider(sampler=sampling.ParentBased(root))
    spans.add_span_processor(BatchSpanProcessor(_to_nowhere("SpanExporter", "trace")))
    trace.set_tracer_provider(spans)
    reader = PeriodicExportingMetricReader(_to_nowhere("MetricExporter", "metrics"))
    metrics.set_meter_provider(MeterProvider([reader]))


def export() -> None:
    """What the readers and processors do once in a while, now; nothing without an SDK."""
    from opentelemetry import metrics, trace

    for provider in (metrics.get_meter_provider(), trace.get_tracer_provider()):
        flush = getattr(provider, "force_flush", None)
        if flush is not None:
            flush()


def _to_nowhere(name: str, signal: str) -> Any:
    """An exporter of that class that is always successful; encoding and sending are no part of what is measured."""
    from importlib import import_module

    module: Any = import_module(f"opentelemetry.sdk.{signal}.export")
    result = module.SpanExportResult if signal == "trace" else module.MetricExportResult
    methods = {
        "export": lambda self, *args, **kwargs: result.SUCCESS,
        "force_flush": lambda self, *args, **kwargs: True,
        "shutdown": lambda self, *args, **kwargs: None,
    }
    return type(f"No{name}", (getattr(module, name),), methods)()
