"""Programs of several processes whose exporters write a file a process, and what all of them told, added up.

The exporters are entry points of a distribution in the program's folder, so that ``opentelemetry-instrument`` finds
them as it finds any other.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from tests.cli.programs import DEADLINE, Place

TELLING = '''
import atexit, json, os, sys, threading
from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk import metrics as sdk_metrics
from opentelemetry.sdk._logs import LoggerProvider, export as logs
from opentelemetry.sdk.metrics import export
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult


def tell(signal, name, series="", value=1):
    with open(f"told.{os.getpid()}", "a") as file:
        file.write(json.dumps({"pid": os.getpid(), "signal": signal, "name": name, "series": series, "value": value}))
        file.write("\\n")


class Spans(SpanExporter):
    def export(self, spans):
        for span in spans:
            tell("span", span.name, span.attributes.get("sessionwatch.outcome"), span.end_time - span.start_time)
        return SpanExportResult.SUCCESS


class Logs(getattr(logs, "LogRecordExporter", None) or logs.LogExporter):
    def export(self, batch):
        for data in batch:
            attributes = getattr(data, "log_record", data).attributes or {}
            tell("log", attributes.get("sessionwatch.rule"))

    def shutdown(self):
        pass

    def force_flush(self, timeout_millis=10_000):
        return True


KINDS = sdk_metrics.Counter, sdk_metrics.Histogram, sdk_metrics.ObservableCounter


class Metrics(export.MetricExporter):
    """Is told differences, so that all exports can be added up."""

    def __init__(self):
        super().__init__(preferred_temporality=dict.fromkeys(KINDS, export.AggregationTemporality.DELTA))

    def export(self, data, timeout_millis=10_000, **kwargs):
        found = [one for resource in data.resource_metrics for scope in resource.scope_metrics for one in scope.metrics]
        for metric in found:
            for point in metric.data.data_points:
                if metric.name.startswith("sessionwatch."):
                    value = getattr(point, "value", None)
                    series = ",".join(str(point.attributes[key]) for key in sorted(point.attributes))
                    tell("metric", metric.name, series, point.count if value is None else value)
        return export.MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis=10_000):
        return True

    def shutdown(self, timeout_millis=30_000, **kwargs):
        pass


def set_up(**options):
    reader = export.PeriodicExportingMetricReader(Metrics(), export_interval_millis=3_600_000)
    metrics.set_meter_provider(sdk_metrics.MeterProvider([reader], **options))
    traces = TracerProvider(**options)
    traces.add_span_processor(BatchSpanProcessor(Spans(), schedule_delay_millis=3_600_000))
    trace.set_tracer_provider(traces)
    made = LoggerProvider(**options)
    made.add_log_record_processor(logs.BatchLogRecordProcessor(Logs(), schedule_delay_millis=3_600_000))
    _logs.set_logger_provider(made)


def end():
    for thread in threading.enumerate():
        tell("thread", thread.name)
    tell("end", "atexit")


atexit.register(end)  # before all others, so that it runs after them
'''

ENTRY_POINTS = """
[opentelemetry_metrics_exporter]
telling = telling:Metrics
[opentelemetry_traces_exporter]
telling = telling:Spans
[opentelemetry_logs_exporter]
telling = telling:Logs
"""

WORK = """
import threading
import shop
from opentelemetry import trace

engine = shop.make_engine("sqlite:///shop.db")
engine.dispose()  # a worker has connections of its own


def work(times=1):
    # what a request, a task or a process does, within a sampled span: one session is kept, one is lost
    for _ in range(times):
        with trace.get_tracer("work").start_as_current_span("work"):
            shop.keep(engine)
            shop.lose(engine)


def run(children):
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0


left_open = None


def leave_open():
    # a session of no request, with its connection, until the process ends
    def begin():
        global left_open
        left_open = shop.Session(engine)
        left_open.execute(shop.select(1))

    if left_open is not None:
        return
    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
"""
AUTOMATIC = {
    "OTEL_METRICS_EXPORTER": "telling",
    "OTEL_TRACES_EXPORTER": "telling",
    "OTEL_LOGS_EXPORTER": "telling",
    "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
    "OTEL_BSP_SCHEDULE_DELAY": "3600000",
    "OTEL_BLRP_SCHEDULE_DELAY": "3600000",
}


@dataclass
class Told:
    """What was exported, by all processes together."""

    lines: list[dict[str, Any]]

    def metric(self, name: str, *pids: int) -> dict[str, int]:
        """The value of each series that is not 0; of some processes only, if any are named."""
        total: Counter[str] = Counter()
        for line in self.lines:
            if line["signal"] == "metric" and line["name"] == name and (not pids or line["pid"] in pids):
                total[line["series"]] += line["value"]
        return {series: value for series, value in total.items() if value}

    @property
    def spans(self) -> Counter[str]:
        """The spans of sessions, by outcome."""
        named = (line for line in self.lines if line["signal"] == "span" and line["name"] == "sessionwatch.session")
        return Counter(line["series"] for line in named)

    @property
    def logs(self) -> Counter[str]:
        """The log records of findings, by rule."""
        return Counter(line["name"] for line in self.lines if line["signal"] == "log" and line["name"])

    @property
    def threads(self) -> set[str]:
        """The threads that were there when a process ended, after everybody's exit."""
        return {line["name"] for line in self.lines if line["signal"] == "thread"}

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Sessions and their durations by outcome, findings by rule; spans of sessions, and log records of findings."""
        names = ("sessions.closed", "session.duration", "findings")
        counts = {name: self.metric(f"sessionwatch.{name}") for name in names}
        return {**counts, "spans": dict(self.spans), "logs": dict(self.logs)}


def prepare(place: Place) -> Place:
    """Put the exporters and the work into the folder, and make the database."""
    place.write("telling.py", TELLING)
    place.write("telling-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: telling\nVersion: 1.0\n")
    place.write("telling-1.0.dist-info/entry_points.txt", ENTRY_POINTS)
    place.write("work.py", WORK)
    unwanted = [name for name in place.env if name.startswith("OTEL_")]
    for name in unwanted:
        del place.env[name]
    place.env |= {
        "PYTHONPATH": f"{place.path}:{place.env['PYTHONPATH']}",
        "HOME": str(place.path),  # where gunicorn has a socket
        "SESSIONWATCH_INTERNAL_ERRORS": str(place.path / "errors"),
        "SESSIONWATCH_RULES": "blocking-io=off,config=off,split-unit-of-work=off",
    }
    engine = create_engine(f"sqlite:///{place.path / 'shop.db'}")  # there before any process, so that none waits for it
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id INTEGER PRIMARY KEY, status VARCHAR NOT NULL)"))
    engine.dispose()
    return place


def told(place: Place) -> Told:
    """What is in the files of all processes; no error of ours was among it."""
    errors = place.path / "errors"
    assert not errors.exists(), errors.read_text()
    files = sorted(place.path.glob("told.*"))
    return Told([json.loads(line) for file in files for line in file.read_text().splitlines()])


@contextmanager
def running(place: Place, *command: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program with a session of its own, so that nothing of it is left, whatever happens in the block."""
    import os

    with (place.path / "output").open("ab") as output:
        process = place.start(*command, start_new_session=True, stdout=output, stderr=output, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)


def output(place: Place) -> str:
    """What the program said."""
    return Path(place.path / "output").read_text(errors="replace")
