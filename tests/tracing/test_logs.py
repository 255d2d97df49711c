"""Findings as log records: what they carry, where they go, and that they go there once."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from typing import Any

import pytest
from opentelemetry import _logs
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk import _logs as sdk_logs
from opentelemetry.sdk._logs import export as logs_export
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from sessionwatch import unit_of_work
from sessionwatch.model import Finding, Site
from sessionwatch.output import sinks
from sessionwatch.output.throttle import REPEAT
from sessionwatch.telemetry.logs import SINCE, Logs
from sessionwatch.watch.watch import Watch
from tests.cli.programs import ROOT
from tests.rules.models import Order
from tests.rules.places import line
from tests.tracing.conftest import Installer
from tests.tracing.otel import LogMemory, Otel


def lose(engine: Engine) -> None:
    session = Session(engine)
    session.add(Order())
    session.flush()
    session.close()  # lost


def handler(provider: Any) -> logging.Handler:
    """The SDK's handler for `logging`; newer releases say that it moves to another package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return sdk_logs.LoggingHandler(logger_provider=provider)


def of_ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "sessionwatch"]


# -- what a record carries ----------------------------------------------------------------------------


def test_record(otel: Otel, installed: Watch, shop: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """A finding is one record: story, severity, event name, place, rule, and the span it was found in."""
    with otel.tracer.start_as_current_span("request") as request:
        lose(shop)
    (finding,), (record,) = installed.findings, otel.logs
    context = request.get_span_context()
    assert (record.trace_id, record.span_id, int(record.trace_flags)) == (
        context.trace_id,
        context.span_id,
        int(context.trace_flags),
    )
    assert (record.severity_number, record.severity_text) == (SeverityNumber.ERROR, "ERROR")
    assert record.body.startswith("lost-writes: 1 Order object was written")
    assert "\n  opened " in record.body
    said = dict(record.attributes)
    event_name = getattr(record, "event_name", None) or said.pop("event.name")
    assert event_name == "sessionwatch.finding"
    assert finding.session is not None
    assert said.pop("code.stacktrace").endswith("in lose")
    assert said == {
        "sessionwatch.rule": "lost-writes",
        "sessionwatch.severity": "fault",
        "error.type": "lost-writes",
        "sessionwatch.subject": "Order",
        "sessionwatch.fingerprint": finding.fingerprint,
        "sessionwatch.count": 1,
        "sessionwatch.count_since_last": 1,
        "sessionwatch.session.id": finding.session["id"],
        "code.file.path": __file__,
        "code.line.number": line("lost"),
        "code.function.name": f"{__name__}.lose",
    }
    (beside,) = of_ours(caplog)
    assert (beside.levelno, beside.getMessage()) == (logging.ERROR, record.body)


def test_advice_is_a_warning(otel: Otel, installed: Watch, caplog: pytest.LogCaptureFixture) -> None:
    """By what it means for the program: what is no fault has the severity WARN, and no error type."""
    assert installed.audience.signals is not None
    finding = Finding("n-plus-one", "advice", "Order.items", "m", Site(__file__, 1, "f"), (), "fix")
    installed.audience.signals.found(finding, True, None)
    (record,), (beside,) = otel.logs, of_ours(caplog)
    assert (record.severity_number, record.severity_text) == (SeverityNumber.WARN, "WARN")
    assert "error.type" not in record.attributes
    assert beside.levelno == logging.WARNING


def test_without_a_span(otel: Otel, installed: Watch, shop: Engine) -> None:
    """Outside of any span a record has no trace."""
    lose(shop)
    (record,) = otel.logs
    assert not record.trace_id
    assert not record.span_id


def test_scope(otel: Otel, installed: Watch, shop: Engine) -> None:
    """The records are of the scope sessionwatch."""
    lose(shop)
    (data,) = otel.log_exporter.get_finished_logs()
    assert data.instrumentation_scope.name == "sessionwatch"


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF])
def test_repeated_finding_is_logged_again_after_an_hour(
    otel: Otel, installed: Watch, shop: Engine, sampler: Sampler
) -> None:
    """The first occurrence is logged, then one an hour, with the count so far and since, in any trace."""
    now = [0.0]
    tracer = Otel(sampler=sampler).tracer
    assert installed.audience.signals is not None
    installed.audience.signals.logs = Logs(otel.logger_provider, clock=lambda: now[0])
    for moment in (0.0, 1.0, REPEAT - 1, REPEAT, REPEAT + 1, 2 * REPEAT):
        now[0] = moment
        with tracer.start_as_current_span("request"):
            lose(shop)
    assert [record.attributes["sessionwatch.count"] for record in otel.logs] == [1, 4, 6]
    assert [record.attributes[SINCE] for record in otel.logs] == [1, 3, 2]


def test_each_line_of_a_function(otel: Otel, installed: Watch, shop: Engine) -> None:
    """Two places with one fingerprint are two records, and two events of the request."""
    with otel.tracer.start_as_current_span("request"):
        lose_twice(shop)
        lose_twice(shop)
    assert len({record.attributes["code.line.number"] for record in otel.logs}) == len(otel.logs) == 2
    assert len({record.attributes["sessionwatch.fingerprint"] for record in otel.logs}) == 1
    assert len(otel.named("request").events) == 2


def lose_twice(engine: Engine) -> None:
    """lost-writes, at two lines of one function"""
    for session in (Session(engine),):
        session.add(Order())
        session.flush()
        session.close()
    session = Session(engine)
    session.add(Order())
    session.flush()
    session.close()


def test_every_exporter_can_encode_it() -> None:
    """Bytes of a file name that are no text, and names that are no strings, become text."""
    strange: Any = Finding("boundary", "fault", "Ord\udcffer", "m", Site("/s\udcff.py", 1, "f\udcfe"), (), "fix")
    strange.unit, strange.session = 7, {"id": ("S", 1)}
    said = strange.attributes()
    assert {type(value) for value in said.values()} == {str, int}
    assert "".join(str(value) for value in said.values()).encode("utf-8")
    assert (said["code.file.path"], said["sessionwatch.unit"]) == ("/s\\udcff.py", "7")


# -- where it goes ------------------------------------------------------------------------------------


def test_standard_logging_without_a_provider(
    shop: Engine, install: Installer, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the program has no logger provider, a finding is a record of `logging`, at the finding's place."""
    with install() as watch:
        lose(shop)
        lose(shop)
    (record,) = of_ours(caplog)
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("lost-writes: ")
    assert (record.pathname, record.lineno, record.funcName) == (__file__, line("lost"), f"{__name__}.lose")
    assert vars(record)["sessionwatch.fingerprint"] == watch.findings[0].fingerprint


def test_log_false_keeps_to_opentelemetry(
    otel: Otel, shop: Engine, install: Installer, caplog: pytest.LogCaptureFixture
) -> None:
    """``log=False`` is about `logging`: without a provider nothing is logged, with one its record is made."""
    with install(log=False):
        lose(shop)
    with install(otel.providers, log=False):
        lose(shop)
    assert of_ours(caplog) == []
    assert len(otel.logs) == 1


def test_provider_without_exporters(shop: Engine, install: Installer, caplog: pytest.LogCaptureFixture) -> None:
    """The SDK's own set-up leaves a provider that exports nothing: the finding goes to `logging`."""
    with install({"logger_provider": sdk_logs.LoggerProvider(shutdown_on_exit=False)}):
        lose(shop)
    assert len(of_ours(caplog)) == 1


def test_disabled_sdk(
    shop: Engine, install: Installer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``OTEL_SDK_DISABLED`` leaves a provider that does nothing."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    otel = Otel()
    with install(otel.providers):
        lose(shop)
    assert len(of_ours(caplog)) == 1
    assert len(otel.logs) <= 1  # an older SDK does not look at the variable


def test_the_programs_own_log_unless_told_otherwise(
    otel: Otel, shop: Engine, install: Installer, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever reads stderr sees what OpenTelemetry has; a setting keeps it to OpenTelemetry."""
    with install(otel.providers):
        lose(shop)
    assert len(of_ours(caplog)) == len(otel.logs) == 1
    with install(otel.providers, settings={"telemetry.logging": False}):
        lose(shop)
    assert (len(of_ours(caplog)), len(otel.logs)) == (1, 2)


def test_stderr_where_only_opentelemetry_has_a_handler(
    otel: Otel, installed: Watch, shop: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    """As though that handler were not there: what no other handler takes, Python writes to stderr."""
    logger, bridge = logging.getLogger("sessionwatch"), handler(otel.logger_provider)
    logger.addHandler(bridge)
    logger.propagate = False  # pytest's own are on the root
    try:
        lose(shop)
    finally:
        logger.removeHandler(bridge)
        logger.propagate = True
    assert len(otel.logs) == 1
    assert capfd.readouterr().err.startswith("lost-writes: ")


@pytest.mark.parametrize("name", ["", "sessionwatch"])
def test_once_beside_the_logging_handler(otel: Otel, installed: Watch, shop: Engine, name: str) -> None:
    """With OpenTelemetry's handler on the program's loggers, a finding is still exported once."""
    logger, bridge = logging.getLogger(name), handler(otel.logger_provider)
    logger.addHandler(bridge)
    try:
        lose(shop)
    finally:
        logger.removeHandler(bridge)
    assert len(otel.logs) == 1


@pytest.mark.parametrize("mode", ["telemetry", "log"])
def test_through_the_logging_handler(
    otel: Otel, shop: Engine, install: Installer, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    """A handler with a provider of its own exports it once, with the same attributes, and the SDK warns of none."""
    bridge = handler(otel.logger_provider)
    logging.getLogger("sessionwatch").addHandler(bridge)
    try:
        with install(mode=mode, rules={"config": "off"}) as watch:
            lose(shop)
    finally:
        logging.getLogger("sessionwatch").removeHandler(bridge)
    (finding,), (record,) = watch.findings, otel.logs
    said = dict(record.attributes)
    assert record.body.startswith("lost-writes: ")
    assert {name: said[name] for name in finding.attributes() if name in said}.items() <= finding.attributes().items()
    assert said["sessionwatch.rule"] == "lost-writes"
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []


def test_provider_that_is_replaced(shop: Engine, install: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a provider of its own, each record goes to the global one of its time."""
    first, second = Otel(), Otel()
    with install() as watch:
        for otel in (first, second):
            monkeypatch.setattr(_logs._internal, "_LOGGER_PROVIDER", otel.logger_provider)
            watch.clear()
            lose(shop)
    assert (len(first.logs), len(second.logs)) == (1, 1)


def test_factory_of_the_program(shop: Engine, install: Installer, caplog: pytest.LogCaptureFixture) -> None:
    """A record is made by the program's own factory, whose fields its formats need."""
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.request_id = "r1"
        return record

    logging.setLogRecordFactory(factory)
    try:
        with install():
            lose(shop)
    finally:
        logging.setLogRecordFactory(before)
    assert [record.request_id for record in of_ours(caplog)] == ["r1"]  # type: ignore[attr-defined]


def test_level_of_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    """A logger that is set to ERROR has no record of advice, and nothing is rendered for it."""
    caplog.set_level(logging.ERROR, "sessionwatch")
    finding = Finding("n-plus-one", "advice", "Order", "m", None, (), "fix")
    sinks.log(finding, True)
    caplog.set_level(logging.WARNING, "sessionwatch")
    sinks.log(finding, True)
    assert len(of_ours(caplog)) == 1


# -- exporters that fail ------------------------------------------------------------------------------


class Broken:
    """A log processor that raises; the method's name has changed between releases."""

    def on_emit(self, log_record: object) -> None:
        raise RuntimeError("on_emit")

    emit = on_emit

    def enabled(self, **_: object) -> bool:
        return True

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


def test_processor_that_raises(otel: Otel, shop: Engine, install: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program goes on, the error is counted, and the span is made all the same."""
    monkeypatch.delenv("SESSIONWATCH_TESTING", raising=False)
    otel.logger_provider.add_log_record_processor(Broken())  # type: ignore[arg-type]
    with install(otel.providers) as watch, otel.tracer.start_as_current_span("request"):
        lose(shop)
    assert watch.status()["internal_errors"] == {"telemetry": 1}
    assert len(otel.sessions) == 1


def test_exporters_that_hang(otel: Otel, installed: Watch, shop: Engine) -> None:
    """While both exporters of an SDK hang, the program's sessions go on, and all arrives in the end."""
    go_on, hanging = threading.Event(), threading.Event()

    def slowly(export: Any) -> Any:
        def exported(batch: Any) -> Any:
            hanging.set()
            go_on.wait()
            return export(batch)

        return exported

    spans, logs = type(otel.span_exporter)(), LogMemory()
    spans.export, logs.export = slowly(spans.export), slowly(logs.export)
    otel.tracer_provider.add_span_processor(BatchSpanProcessor(spans, schedule_delay_millis=1))
    otel.logger_provider.add_log_record_processor(logs_export.BatchLogRecordProcessor(logs, schedule_delay_millis=1))
    with otel.tracer.start_as_current_span("request"):
        lose(shop)
        hanging.wait()
        for _ in range(100):
            lose(shop)
    assert (len(spans.get_finished_spans()), len(logs.get_finished_logs())) == (0, 0)
    go_on.set()
    otel.shutdown()
    assert len(otel.sessions) == 101
    assert (len(spans.get_finished_spans()), len(logs.get_finished_logs())) == (102, 1)


def test_errors_of_ours_quote_nothing(
    otel: Otel, shop: Engine, install: Installer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In production an internal error is logged by its class and its way, without its message, which may quote."""
    monkeypatch.delenv("SESSIONWATCH_TESTING", raising=False)

    def callback(finding: Finding) -> None:
        raise ValueError("secret " + "value")

    with install(otel.providers, on_finding=callback):
        lose(shop)
    assert "sessionwatch failed in sink Audience._call_back" in caplog.text
    assert "ValueError\n" in caplog.text
    assert f"{__file__}:{callback.__code__.co_firstlineno + 1} in callback" in caplog.text
    assert "secret" not in caplog.text


# -- the page -----------------------------------------------------------------------------------------


def test_page_names_what_is_exported(otel: Otel, installed: Watch, shop: Engine) -> None:
    """``docs/tracing.md`` lists exactly the attributes that spans, events, links and log records have."""
    with otel.tracer.start_as_current_span("request"), unit_of_work("import"):
        lose(shop)
    page = (ROOT / "docs" / "tracing.md").read_text(encoding="utf-8")
    span, finding = (set(re.findall(r"`([a-z._]+)`", part)) for part in page.split("\n| attribute |")[1:])
    (event,), (link,), (record,) = otel.named("request").events, otel.session.links, otel.logs
    names = {name for name in span if name.startswith(("sessionwatch.", "code.", "error."))}
    assert names - {"sessionwatch.finding"} == set(dict(otel.session.attributes or {}))
    brief = set(dict(event.attributes or {}))
    assert brief == set(dict(link.attributes or {}))
    finding -= {"sessionwatch.pool.timeout"}  # another record
    assert {name for name in finding if name.startswith(("sessionwatch.", "code.", "error."))} == (
        brief | set(dict(record.attributes)) - {"event.name"}
    )
    for row in ("sessionwatch.count", "sessionwatch.session.id", "sessionwatch.unit"):
        assert row not in brief
    assert {"`sessionwatch.session`", "`sessionwatch.finding`"} <= set(re.findall(r"`[a-z.]+`", page))
