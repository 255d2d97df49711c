"""The entry point of ``opentelemetry-instrument``, called as that command calls it and by hand."""

# ruff: noqa: F811

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points, requires
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from packaging.requirements import Requirement
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch import ConfigError
from sessionwatch.instrumentor import INSTRUMENTS, SessionwatchInstrumentor
from sessionwatch.watch import installation
from tests.cli.conftest import place  # noqa: F401 (fixture)
from tests.cli.programs import LOST_LINE, Outcome, Place
from tests.rules.models import Order
from tests.tracing.otel import SESSION, Otel, attributes

PROGRAM = """
from opentelemetry import trace
import shop

engine = shop.make_engine()
with trace.get_tracer("program").start_as_current_span("request"):
    shop.keep(engine)
    shop.lose(engine)
    session = shop.Session(engine)
session.add(shop.Order())
session.flush()
"""

# Old releases set up a logger provider for this only; all of them add a handler to the root logger for it.
LOGS = {"OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED": "true"}


@pytest.fixture
def instrumentor(monkeypatch: pytest.MonkeyPatch) -> Iterator[SessionwatchInstrumentor]:
    """Not instrumented before nor after the test."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    sessionwatch.uninstall()
    ours = SessionwatchInstrumentor()
    yield ours
    if ours.is_instrumented_by_opentelemetry:
        ours.uninstrument()
    sessionwatch.uninstall()


def instrumented(place: Place, source: str = PROGRAM, **env: str) -> tuple[Outcome, list[Any], list[Any]]:
    """Run a program under ``opentelemetry-instrument``: the outcome, its spans, its log records."""
    place.write("program.py", source)
    exporters = {f"OTEL_{signal}_EXPORTER": "console" for signal in ("TRACES", "LOGS")}
    command = Path(sys.executable).parent / "opentelemetry-instrument"
    wanted = {**exporters, "OTEL_METRICS_EXPORTER": "none", "SESSIONWATCH_TESTING": "1", **env}
    wanted.setdefault("SESSIONWATCH_SETTINGS", "telemetry.logging=no")
    outcome = place.execute(command, sys.executable, "program.py", env=wanted)
    told = list(documents(outcome.out))
    spans = [one for one in told if "kind" in one]
    return (
        outcome,
        spans,
        [one for one in told if one not in spans and "sessionwatch.rule" in (one["attributes"] or {})],
    )


def documents(text: str) -> Iterator[Any]:
    """The JSON documents that the console exporters wrote one after another."""
    decoder, text = json.JSONDecoder(), text.strip()
    while text:
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:].strip()


def accepts(name: str) -> bool:
    """Whether a distribution's extra `instruments` accepts this SQLAlchemy."""
    wanted = [Requirement(line) for line in requires(name) or () if "instruments" in line]
    return any(one.name.lower() == "sqlalchemy" and one.specifier.contains(sqlalchemy.__version__) for one in wanted)


def lose(engine: Engine) -> None:
    session = Session(engine)
    session.add(Order())
    session.flush()
    session.close()


def lose_in_a_request(otel: Otel, engine: Engine) -> None:
    with otel.tracer.start_as_current_span("request"):
        lose(engine)


# -- as the command calls it --------------------------------------------------------------------------


@pytest.mark.e2e
def test_unmodified_program(place: Place) -> None:
    """Without a line of code: a span a session, a record a finding, also for what is open at the exit."""
    outcome, spans, logs = instrumented(place, **LOGS)
    assert outcome.status == 0
    request = next(span for span in spans if span["name"] == "request")
    ours = [span for span in spans if span["name"] == SESSION]
    assert [span["attributes"]["sessionwatch.outcome"] for span in ours] == ["committed", "lost", "lost"]
    assert [span["parent_id"] for span in ours] == [request["context"]["span_id"]] * 3
    assert [event["name"] for event in request["events"]] == ["sessionwatch.finding"]
    rules = [(log["attributes"]["sessionwatch.rule"], log["attributes"]["code.line.number"]) for log in logs]
    assert rules[0] == ("lost-writes", LOST_LINE)
    assert {rule for rule, _ in rules[1:]} == {"lost-writes", "session-leak"}
    assert logs[0]["trace_id"] == request["context"]["trace_id"]
    assert "sessionwatch" not in outcome.err


@pytest.mark.e2e
def test_beside_the_other_instrumentor(place: Place) -> None:
    """The other instrumentor's statements are there where it accepts this SQLAlchemy; ours are there in any case."""
    _, spans, _ = instrumented(place)
    theirs = [span for span in spans if span["kind"] == "SpanKind.CLIENT"]
    accepted = accepts("opentelemetry-instrumentation-sqlalchemy")
    assert bool(theirs) == accepted
    statements = [span for span in theirs if span["name"].startswith("INSERT")]
    assert len(statements) == (3 if accepted else 0)
    assert len([span for span in spans if span["name"] == SESSION]) == 3


@pytest.mark.e2e
def test_disabled(place: Place) -> None:
    """``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`` keeps us out."""
    outcome, spans, logs = instrumented(place, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="flask, sessionwatch")
    assert outcome.status == 0
    assert SESSION not in {span["name"] for span in spans}
    assert logs == []


@pytest.mark.e2e
def test_mode_of_the_environment(place: Place) -> None:
    """What the environment says counts: in mode ``log`` findings are logged, and there are no spans."""
    outcome, spans, _ = instrumented(place, SESSIONWATCH_MODE="log")
    assert SESSION not in {span["name"] for span in spans}
    assert "lost-writes: 1 Order object was written" in outcome.err


@pytest.mark.e2e
def test_mode_of_the_project(place: Place) -> None:
    """What ``pyproject.toml`` says counts too."""
    place.write("pyproject.toml", '[tool.sessionwatch]\nmode = "strict"\n')
    outcome, _, _ = instrumented(place)
    assert outcome.status == 1
    assert "FindingError: lost-writes" in outcome.err


@pytest.mark.e2e
def test_wrong_configuration(place: Place) -> None:
    """A mistake in the configuration is logged; the program runs, and the other instrumentors are loaded."""
    outcome, spans, _ = instrumented(place, SESSIONWATCH_MODE="telemetri")
    assert outcome.status == 0
    assert "Did you mean 'telemetry'?" in outcome.err
    assert "Failed to auto initialize" not in outcome.err
    assert "request" in {span["name"] for span in spans}


@pytest.mark.e2e
@pytest.mark.parametrize(("mode", "sessions"), [("log", 0), ("telemetry", 3)])
def test_program_that_installs_itself(place: Place, mode: str, sessions: int) -> None:
    """The program's own ``install()`` counts, and nothing is told twice."""
    source = f"import sessionwatch\nsessionwatch.install(mode={mode!r}, rules={{'config': 'off'}})\n{PROGRAM}"
    outcome, spans, logs = instrumented(place, source, **(LOGS if mode == "telemetry" else {}))
    assert outcome.status == 0
    assert len([span for span in spans if span["name"] == SESSION]) == sessions
    assert len(logs) == (3 if sessions else 0)
    assert outcome.err.count("lost-writes: ") == (0 if sessions else 2)


def test_gate() -> None:
    """What opentelemetry-instrument asks before it loads us: the extra, which this SQLAlchemy satisfies."""
    extra = [line for line in requires("sessionwatch") or () if "instruments" in line]
    assert [line.partition(";")[0].replace(" ", "") for line in extra] == [
        item.replace(" ", "") for item in INSTRUMENTS
    ]
    assert accepts("sessionwatch")
    (entry,) = entry_points(group="opentelemetry_instrumentor", name="sessionwatch")
    assert entry.load() is SessionwatchInstrumentor


# -- by hand ------------------------------------------------------------------------------------------


def test_by_hand(instrumentor: SessionwatchInstrumentor, otel: Otel, shop: Engine) -> None:
    """``instrument()`` installs with the providers that it is given; ``uninstrument()`` undoes it."""
    instrumentor.instrument(**otel.providers)
    made = installation.current()
    assert made is not None
    assert made.status()["mode"] == {"value": "telemetry", "from": "instrumentor"}
    lose_in_a_request(otel, shop)
    instrumentor.uninstrument()
    lose_in_a_request(otel, shop)
    assert installation.current() is None
    assert [attributes(span)["sessionwatch.outcome"] for span in otel.sessions] == ["lost"]
    assert len(otel.logs) == 1


def test_keywords(instrumentor: SessionwatchInstrumentor, otel: Otel, shop: Engine) -> None:
    """Keywords of ``install()`` are passed on, those for other instrumentors are not."""
    instrumentor.instrument(**otel.providers, rules={"lost-writes": "off"}, excluded_urls="health", skip_dep_check=True)
    lose(shop)
    assert otel.logs == []


def test_wrong_keyword(instrumentor: SessionwatchInstrumentor) -> None:
    """By hand, a mistake is an error."""
    with pytest.raises(ConfigError, match="Did you mean 'telemetry'"):
        instrumentor.instrument(mode="telemetri")
    assert installation.current() is None


def test_installed_already(instrumentor: SessionwatchInstrumentor, shop: Engine) -> None:
    """An installation of the program's own stays as it is, also after ``uninstrument()``."""
    with sessionwatch.watching("log", log=False) as own:
        instrumentor.instrument()
        assert installation.current() is own
        instrumentor.uninstrument()
        assert installation.current() is own
        lose(shop)
    assert "lost-writes" in {finding.rule for finding in own.findings}


def test_takes_over_and_hands_back(instrumentor: SessionwatchInstrumentor, otel: Otel, shop: Engine) -> None:
    """The program's own installation takes the place of ours, with its providers, and hands it back."""
    instrumentor.instrument(**otel.providers)
    with sessionwatch.watching("telemetry") as own:
        lose_in_a_request(otel, shop)
    assert len(own.findings) == len(otel.sessions) == 1
    lose_in_a_request(otel, shop)
    assert len(otel.sessions) == 2
    instrumentor.uninstrument()
    assert installation.current() is None


@pytest.mark.parametrize("withdrawn", [False, True])
def test_above_a_run(withdrawn: bool, instrumentor: SessionwatchInstrumentor, shop: Engine) -> None:
    """Where `sessionwatch run`, the instrumentor and the program install, one is in place, and all are handed back."""
    before, heard = dict(vars(Session)), []
    run = installation.install(gives_way=True, log=False)
    run.subscribe(lambda finding, first: heard.append(finding.rule))
    instrumentor.instrument()
    with sessionwatch.watching("log", log=False) as own:
        lose(shop)
        if withdrawn:
            instrumentor.uninstrument()
    assert [finding.rule for finding in own.findings] == heard
    assert heard.count("lost-writes") == 1
    instrumentor.uninstrument()
    lose(shop)
    assert heard.count("lost-writes") == 2
    current = installation.current()
    assert current is not None
    assert current.config is run.config
    current.uninstall()
    assert (installation.current(), dict(vars(Session))) == (None, before)


def test_uninstrument_below_another(instrumentor: SessionwatchInstrumentor, shop: Engine) -> None:
    """``uninstrument()`` leaves the program's own installation alone, and nothing is handed back after it."""
    instrumentor.instrument()
    own = sessionwatch.install("log", log=False)
    instrumentor.uninstrument()
    assert installation.current() is own
    own.uninstall()
    assert installation.current() is None


def test_twice(instrumentor: SessionwatchInstrumentor, otel: Otel, shop: Engine, caplog: Any) -> None:
    """A second ``instrument()`` does nothing, and says so as every instrumentor does."""
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            instrumentor.instrument(**otel.providers)
    lose_in_a_request(otel, shop)
    assert len(otel.sessions) == 1
    assert "already instrumented" in caplog.text
