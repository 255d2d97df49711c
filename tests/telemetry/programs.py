"""Programs that set up the SDK in their own way, each in a process of its own; what they export is read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRELUDE = '''
import json, os, sys, time
import sessionwatch
from opentelemetry import metrics
from opentelemetry.sdk.metrics import (
    Counter, Histogram, MeterProvider, ObservableCounter, ObservableUpDownCounter, UpDownCounter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality, InMemoryMetricReader, MetricExporter, MetricExportResult, PeriodicExportingMetricReader,
)
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from tests.telemetry.readings import metrics_of, values_of

DELTA = {kind: AggregationTemporality.DELTA for kind in (Counter, Histogram, ObservableCounter)}
engine = create_engine("sqlite://")
NAMES = ("sessionwatch.sessions.closed", "sessionwatch.session.duration", "sessionwatch.findings")

def told(data):
    found = metrics_of(data)
    return {name: {",".join(series): value for series, value in values_of(found.get(name)).items()} for name in NAMES}

class Exporter(MetricExporter):
    """Writes a line for each export."""
    def export(self, metrics_data, timeout_millis=10_000, **kwargs):
        with open(sys.argv[1], "a") as file:
            file.write(json.dumps({"pid": os.getpid(), "name": self.name, **told(metrics_data)}) + "\\n")
        return MetricExportResult.SUCCESS
    def force_flush(self, timeout_millis=10_000):
        return True
    def shutdown(self, timeout_millis=30_000, **kwargs):
        pass

def provider(name="one", temporality=None, exporter=Exporter, **keywords):
    made = exporter(preferred_temporality=temporality or {})
    made.name = name
    reader = PeriodicExportingMetricReader(made, export_interval_millis=3_600_000)
    return MeterProvider([reader], **keywords)

def read(times=1):
    for _ in range(times):
        with Session(engine) as session:
            session.execute(text("SELECT 1"))

def leak():
    global leaked
    leaked = Session(engine)
    leaked.execute(text("SELECT 1"))
'''


@dataclass
class Outcome:
    """How a program ended."""

    pid: int
    exports: list[dict[str, Any]]  # one a collection, each metric's values by series
    stdout: str
    stderr: str

    def last(self, name: str = "one") -> dict[str, dict[str, int]]:
        """What the exporter of one provider was told last in the first process."""
        return [export for export in self.exports if export["name"] == name and export["pid"] == self.pid][-1]

    def total(self, metric: str, series: str, name: str = "one") -> int:
        """The sum over all exports, of all processes: for an exporter that is told differences."""
        return sum(export[metric].get(series, 0) for export in self.exports if export["name"] == name)


def run(tmp_path: Path, code: str, timeout: float = 60) -> Outcome:
    """Run a program after the prelude; it has to end well."""
    out, script = tmp_path / "exports.jsonl", tmp_path / "program.py"
    script.write_text(PRELUDE + code)
    root = Path(__file__).resolve().parents[2]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "SESSIONWATCH_"))}
    environ |= {"PYTHONPATH": str(root), "SESSIONWATCH_INTERNAL_ERRORS": str(tmp_path / "errors")}
    process = subprocess.Popen(
        [sys.executable, str(script), str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    )
    stdout, stderr = process.communicate(timeout=timeout)
    assert process.returncode == 0, stderr
    assert not (tmp_path / "errors").exists(), (tmp_path / "errors").read_text()
    lines = out.read_text().splitlines() if out.exists() else []
    return Outcome(process.pid, [json.loads(line) for line in lines], stdout, stderr)
