"""Whole programs: no SDK, a late one, two of them, what is open at the exit, forks. Each is told once."""

# ruff: noqa: F811

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import pytest

from tests.cli.conftest import place  # noqa: F401 (fixture)
from tests.cli.programs import Outcome, Place
from tests.tracing.otel import SESSION

SDK = """
import os
from opentelemetry import _logs, trace
from opentelemetry.sdk._logs import LoggerProvider, export
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter


def line(one):
    return one.to_json(indent=None) + os.linesep


class Told:
    # a file a process, so that no buffer is inherited
    def write(self, text):
        with open(f"told.{os.getpid()}", "a") as file:
            file.write(text)

    def flush(self):
        pass


def set_up():
    told = Told()
    traces = TracerProvider()
    traces.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(out=told, formatter=line)))
    trace.set_tracer_provider(traces)
    console = getattr(export, "ConsoleLogRecordExporter", None) or export.ConsoleLogExporter
    logs = LoggerProvider()
    logs.add_log_record_processor(export.BatchLogRecordProcessor(console(out=told, formatter=formatted)))
    _logs.set_logger_provider(logs)


def formatted(data):
    record = getattr(data, "log_record", data)
    about = {"severity_number": 13, "attributes": dict(record.attributes)}
    import json
    return json.dumps(about) + os.linesep
"""

SET_UP = "setup_sdk.set_up()\nsessionwatch.install(mode='telemetry')"
REQUEST = 'with trace.get_tracer("program").start_as_current_span("request"):'
ENGINE, LOSE = "engine = shop.make_engine()", f"{REQUEST} shop.lose(engine)"
LOSE_AT_EXIT = f"""
{REQUEST}
    session = shop.Session(engine)
session.add(shop.Order())
session.flush()
"""


def run(place: Place, source: str, **env: str) -> tuple[Outcome, list[dict[str, Any]], list[dict[str, Any]]]:
    """Run a program; what it said, the sessions' spans and the log records of all its processes."""
    place.write("setup_sdk.py", SDK)
    place.write("program.py", source)
    wanted = {"SESSIONWATCH_TESTING": "1", "SESSIONWATCH_RULES": "session-leak=off"}
    wanted |= {"SESSIONWATCH_SETTINGS": "telemetry.logging=no", **env}
    outcome = place.python("-W", "ignore", "program.py", env=wanted)
    files = sorted(place.path.glob("told.*"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    spans = [line for line in lines if line.get("name") == SESSION]
    return outcome, spans, [line for line in lines if "severity_number" in line]


def program(*steps: str) -> str:
    """A program of these steps."""
    return "\n".join(["import sessionwatch, setup_sdk, shop", "from opentelemetry import _logs, trace", *steps])


def test_without_an_sdk(place: Place) -> None:
    """Without an SDK the program runs as before, and findings go to `logging`."""
    outcome, spans, logs = run(
        place,
        f"""
import sessionwatch, shop
from opentelemetry import trace
sessionwatch.install(mode="telemetry")
engine = shop.make_engine()
{LOSE}
{LOSE_AT_EXIT}
""",
    )
    assert (outcome.status, spans, logs) == (0, [], [])
    assert outcome.err.count("lost-writes: ") == 2


@pytest.mark.parametrize("order", ["before", "after", "after sessions"])
def test_open_at_the_exit(place: Place, order: str) -> None:
    """A session that is open at the exit is told, whether the SDK was set up before the installation or after it."""
    steps = {
        "before": ["setup_sdk.set_up()", "sessionwatch.install(mode='telemetry')"],
        "after": ["sessionwatch.install(mode='telemetry')", "setup_sdk.set_up()"],
        "after sessions": [
            "sessionwatch.install(mode='telemetry')",
            "for _ in range(10): shop.keep(engine)",
            "setup_sdk.set_up()",
        ],
    }[order]
    outcome, spans, logs = run(place, program(ENGINE, *steps, LOSE_AT_EXIT))
    assert (outcome.status, outcome.err) == (0, "")
    assert [span["attributes"]["sessionwatch.outcome"] for span in spans] == ["lost"]
    assert [log["attributes"]["sessionwatch.rule"] for log in logs] == ["lost-writes"]


def test_collected_before_the_exit(place: Place) -> None:
    """What the collector found last is told at the exit."""
    outcome, spans, logs = run(
        place,
        f"""
import gc, sessionwatch, setup_sdk, shop
from opentelemetry import trace
setup_sdk.set_up()
sessionwatch.install(mode="telemetry")
engine = shop.make_engine()
def leave():
    session = shop.Session(engine)
    session.add(shop.Order())
    session.flush()
{REQUEST}
    leave()
gc.collect()
""",
    )
    assert (outcome.status, len(spans), len(logs)) == (0, 1, 1)


def test_two_set_ups(place: Place) -> None:
    """A second SDK, which the API refuses, changes nothing: each session and finding is told once."""
    outcome, spans, logs = run(place, program(SET_UP, ENGINE, LOSE, SET_UP, LOSE))
    assert (outcome.status, len(spans), len(logs)) == (0, 2, 1)


def test_shutdown_before_the_end(place: Place) -> None:
    """An SDK that the program shuts down has what happened before; the program ends as before."""
    shut_down = "trace.get_tracer_provider().shutdown(); _logs.get_logger_provider().shutdown()"
    outcome, spans, logs = run(place, program(SET_UP, ENGINE, LOSE, shut_down, LOSE))
    assert (outcome.status, len(spans), len(logs)) == (0, 1, 1)
    assert "Traceback" not in outcome.err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
def test_fork(place: Place) -> None:
    """Each process tells of its own sessions; what waits, and what is open at the fork, is the parent's."""
    outcome, spans, logs = run(
        place,
        f"""
import gc, os, sys, sessionwatch, setup_sdk, shop
setup_sdk.set_up()
sessionwatch.install(mode="telemetry")
engine = shop.make_engine("sqlite:///fork.db")
from opentelemetry import trace
{REQUEST}
    open_at_fork = shop.Session(engine)
def leave():
    session = shop.Session(engine)
    session.add(shop.Order())
    session.flush()
{REQUEST}
    leave()
gc.collect()  # waits
engine.dispose()
{REQUEST}
    for _ in range(3):
        child = os.fork()
        if not child:
            engine.dispose(close=False)
            open_at_fork.close()
            shop.lose(engine)
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
open_at_fork.close()
shop.keep(engine)
""",
    )
    assert (outcome.status, outcome.err) == (0, "")
    outcomes = Counter(span["attributes"]["sessionwatch.outcome"] for span in spans)
    assert outcomes == {"lost": 4, "read_only": 1}
    assert len(logs) == 4
    assert len(list(place.path.glob("told.*"))) == 4
