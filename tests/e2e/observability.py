"""Prometheus and OTLP collectors for a test: started on free ports, asked, and gone afterwards."""

from __future__ import annotations

import gzip
import json
import math
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.programs import PATIENCE, Program, environment, eventually, started
from tests.services import free_port
from tests.tools import beside, tool

Labels = dict[str, str]
TOGETHER = 0.01  # seconds by which Prometheus may move a scrape, so that all lie evenly
LATE = 0.5  # seconds within which it notes that a scrape came to nothing


@dataclass
class Prometheus:
    """A running server."""

    url: str
    program: Program

    every: float  # seconds between two scrapes of a target; and so long may one take
    at: float | None = None  # the time of a query that names none; where this is None, now

    def query(self, expression: str, at: float | None = None) -> list[tuple[Labels, float]]:
        """The samples of an instant vector, now or at a time; HTTPError for an expression that it refuses."""
        at = at or self.at
        result = self._get("query", query=expression, **({"time": str(at)} if at else {}))["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def number(self, expression: str) -> float | None:
        """The one value of an expression; None where it has none."""
        samples = self.query(expression)
        assert len(samples) <= 1, samples
        return samples[0][1] if samples else None

    def asked_since(self, moment: float, living: str = "") -> bool | None:
        """Whether every target was asked after a moment, and those that ``living`` selects answered; None if not yet.

        One scrape reads its metrics one after the other: only one that began after it has all that happened before.
        """
        for targets, wanted in (("up", ("0", "1")), (f"up{living}", ("1",))):
            for target in self._get("query", query=f"{targets}[1h]")["result"]:
                if not any(when > moment + TOGETHER and value in wanted for when, value in target["values"]):
                    return None
        return True

    def moment(self, living: str = "") -> int:
        """A full second at which Prometheus had an answer of every living target.

        On a busy machine a target may be late for a scrape: until the next one Prometheus then has nothing of it.
        """

        def complete() -> int | None:
            end = math.ceil(time.time())
            time.sleep(max(0.0, end + self.every + LATE - time.time()))  # a scrape of before may still come to nothing
            return None if self.query(f"up{living} == 0", end) else end

        return eventually(complete, self.program)

    def judged_since(self, moment: float) -> bool | None:
        """Whether all rules were evaluated after a moment; None if not yet."""
        ends = [datetime.fromisoformat(group["lastEvaluation"]) for group in self._get("rules")["groups"]]
        return all(end.timestamp() > moment for end in ends) or None

    def alerts(self, job: str) -> dict[str, dict[str, Any]]:
        """The alerts of a job that are pending or firing, by name; one of each."""
        every = [alert for alert in self._get("alerts")["alerts"] if alert["labels"].get("job") == job]
        return {alert["labels"]["alertname"]: alert for alert in every}

    def range(self, expression: str, start: float, end: float, step: float) -> list[tuple[Labels, list[float]]]:
        """The values of each series at every step."""
        times = {"start": str(start), "end": str(end), "step": str(step)}
        result = self._get("query_range", query=expression, **times)["result"]
        return [(series["metric"], [float(value) for _, value in series["values"]]) for series in result]

    def label_values(self, label: str, series: str) -> list[str]:
        """The values that a label has on these series."""
        values: list[str] = self._get(f"label/{label}/values", **{"match[]": series})
        return values

    def _get(self, path: str, **parameters: str) -> Any:
        with urllib.request.urlopen(
            f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=PATIENCE
        ) as got:
            return json.load(got)["data"]


@contextmanager
def prometheus(
    folder: Path,
    targets: dict[str, str],
    rules: Path,
    *,
    renamed: dict[str, str],
    every: float = 2,
    jobs: Sequence[dict[str, Any]] = (),
) -> Iterator[Prometheus]:
    """A server that scrapes ``targets``: by job ``host:port``, with commas between several.

    ``renamed`` is by job a metric that comes under another name, as after a careless change. ``jobs`` are scrapes
    beside these, in Prometheus's own words. A target has as long to answer as lies between two scrapes: on a busy
    machine that may be more than a moment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scrapes = [*(_scrape(job, target, renamed.get(job)) for job, target in targets.items()), *jobs]
    interval = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), f"{every * 1000:.0f}ms")
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": interval, "scrape_configs": scrapes, "rule_files": [str(rules)]}))
    address = f"127.0.0.1:{free_port()}"
    command = [tool("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address={address}", "--log.level=warn"]
    with started(command, cwd=folder, folder=folder, env=environment()) as program:
        server = Prometheus(f"http://{address}", program, every)

        def ready() -> bool | None:
            with suppress(urllib.error.URLError, ConnectionError):
                return bool(server.query("vector(1)")) or None
            return None

        eventually(ready, program)
        yield server


def _scrape(job: str, target: str, renamed: str | None) -> dict[str, Any]:
    config: dict[str, Any] = {"job_name": job, "static_configs": [{"targets": target.split(",")}]}
    if renamed:
        change = {"source_labels": ["__name__"], "regex": renamed, "target_label": "__name__", "replacement": "renamed"}
        config["metric_relabel_configs"] = [change]
    return config


@dataclass
class Received:
    """What a collector forwarded."""

    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    logs: list[ExportLogsServiceRequest] = field(default_factory=list)

    def latest(self) -> dict[str, Metric]:
        """The last state of each metric of sessionwatch, by its name in OpenTelemetry."""
        every = [resource for request in list(self.metrics) for resource in request.resource_metrics]
        scopes = [scope for resource in every for scope in resource.scope_metrics if scope.scope.name == "sessionwatch"]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def spans(self) -> dict[bytes, tuple[str, Span]]:
        """Every span by its id, with the name of the scope that made it."""
        every = [resource for request in list(self.traces) for resource in request.resource_spans]
        scopes = [scope for resource in every for scope in resource.scope_spans]
        return {span.span_id: (scope.scope.name, span) for scope in scopes for span in scope.spans}

    def records(self) -> list[LogRecord]:
        """The log records of sessionwatch."""
        every = [resource for request in list(self.logs) for resource in request.resource_logs]
        scopes = [scope for resource in every for scope in resource.scope_logs if scope.scope.name == "sessionwatch"]
        return [record for scope in scopes for record in scope.log_records]

    def totals(self, name: str, label: str) -> dict[str, float]:
        """The values of a counter, added up by one of its attributes."""
        found: dict[str, float] = {}
        metric = self.latest().get(name)
        for point in metric.sum.data_points if metric else ():
            attributes = texts(point)
            value = point.as_int if point.HasField("as_int") else point.as_double
            found[attributes[label]] = found.get(attributes[label], 0) + value
        return found


def texts(item: Any) -> Labels:
    """The attributes of a point, a span or a record, as far as they are strings."""
    return {attribute.key: attribute.value.string_value for attribute in item.attributes}


@contextmanager
def collector(folder: Path) -> Iterator[tuple[str, str, Received]]:
    """A real OTLP collector that forwards to this process: its HTTP endpoint, its gRPC endpoint, what came through."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body
            if self.path.endswith("/v1/metrics"):
                received.metrics.append(ExportMetricsServiceRequest.FromString(body))
            elif self.path.endswith("/v1/traces"):
                received.traces.append(ExportTraceServiceRequest.FromString(body))
            elif self.path.endswith("/v1/logs"):
                received.logs.append(ExportLogsServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    sink = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=sink.serve_forever)
    thread.start()
    try:
        with _rotel(folder, f"http://127.0.0.1:{sink.server_port}") as (http, grpc):
            yield http, grpc, received
    finally:
        sink.shutdown()
        thread.join()
        sink.server_close()


@contextmanager
def _rotel(folder: Path, forward: str) -> Iterator[tuple[str, str]]:
    agent = beside("rotel", "rotel-agent")
    http, grpc = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    command = [agent, "start", f"--otlp-http-endpoint={http}", f"--otlp-grpc-endpoint={grpc}", "--exporter=otlp"]
    command += [f"--otlp-exporter-endpoint={forward}", "--otlp-exporter-protocol=http"]
    command += [f"--pid-file={folder / 'pid'}", f"--log-file={folder / 'log'}"]
    with started(command, cwd=Path.cwd(), folder=folder, env=environment()) as program:
        eventually(lambda: _answers(http) or None, program)
        yield f"http://{http}", grpc


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"http://{address}/", timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
