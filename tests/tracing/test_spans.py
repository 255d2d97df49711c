"""One span a session: its parent, its times, what it says, and when it is made."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from opentelemetry import _logs, trace
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, selectinload

import sessionwatch
from sessionwatch import FindingError, _version
from sessionwatch.telemetry import signals
from sessionwatch.telemetry.table import SCHEMA_URL
from sessionwatch.watch.watch import Watch
from tests.rules.conftest import async_shop  # noqa: F401 (fixture)
from tests.rules.models import Customer, Item, Order
from tests.rules.places import line
from tests.tracing.conftest import Installer
from tests.tracing.otel import SESSION, Otel, attributes, parent_id


def read(engine: Engine) -> None:
    with Session(engine) as session:
        session.scalars(select(Order)).all()


def lose(engine: Engine) -> None:
    session = Session(engine)
    session.add(Order())
    session.flush()
    session.close()


def leave(engine: Engine) -> None:
    """A session with a write that nobody closes; only the cycle collector finds it."""
    session = Session(engine)
    session.add(Order())
    session.flush()


# -- what it is ---------------------------------------------------------------------------------------


def test_child_of_the_request(otel: Otel, installed: Watch, shop: Engine) -> None:
    """A session under a sampled span is one INTERNAL child of it, with its counters and the opener's place."""
    with otel.tracer.start_as_current_span("request"), sessionwatch.unit_of_work("import"):
        session = Session(shop)  # opened
        session.add(Customer(name="Grace"))
        session.commit()
        session.close()
    span, request = otel.session, otel.named("request")
    assert (span.kind, parent_id(span)) == (SpanKind.INTERNAL, request.context.span_id)
    assert span.context.trace_id == request.context.trace_id
    assert span.status.status_code is StatusCode.UNSET
    said = attributes(span)
    assert said.pop("sessionwatch.session.id").startswith("S")
    assert said == {
        "sessionwatch.outcome": "committed",
        "sessionwatch.session.kind": "sync",
        "sessionwatch.statements": 1,
        "sessionwatch.flushes": 1,
        "sessionwatch.rows.written": 1,
        "sessionwatch.unit": "import",
        "code.file.path": __file__,
        "code.line.number": line("opened"),
        "code.function.name": f"{__name__}.test_child_of_the_request",
    }


def test_the_same_code_in_two_files(otel: Otel, installed: Watch, shop: Engine, tmp_path: Path) -> None:
    """Two files with the same function are two places, though Python takes their code for equal."""
    paths = [str(tmp_path / name) for name in ("one.py", "two.py")]
    with otel.tracer.start_as_current_span("request"):
        for path in paths:
            names: dict[str, Any] = {"Session": Session}
            exec(compile("def work(engine):\n    Session(engine).close()\n", path, "exec"), names)
            names["work"](shop)
    assert [attributes(span)["code.file.path"] for span in otel.sessions] == paths


def test_scope_has_version_and_schema(otel: Otel, installed: Watch, shop: Engine) -> None:
    """The instrumentation scope is sessionwatch, with its version and the schema of the attributes."""
    with otel.tracer.start_as_current_span("request"):
        read(shop)
    scope = otel.session.instrumentation_scope
    assert (scope.name, scope.version, scope.schema_url) == ("sessionwatch", _version.__version__, SCHEMA_URL)


def test_lies_within_the_request(otel: Otel, installed: Watch, shop: Engine) -> None:
    """The span begins and ends where the session did, though it is made at the end."""
    with otel.tracer.start_as_current_span("request"):
        session = Session(shop)
        with otel.tracer.start_as_current_span("work"):
            session.execute(text("SELECT 1"))
        session.close()
    request, span, work = otel.named("request"), otel.session, otel.named("work")
    assert request.start_time <= span.start_time <= work.start_time
    assert work.end_time <= span.end_time <= request.end_time


def test_clock_that_was_set_back(otel: Otel, installed: Watch, shop: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps back while the session is open makes no span that ends before it begins."""
    with otel.tracer.start_as_current_span("request"), Session(shop) as session:
        now = signals.time_ns()
        monkeypatch.setattr(signals, "time_ns", lambda: now - 3600 * 10**9)
        session.execute(text("SELECT 1"))
    span = otel.session
    assert 0 < span.end_time - span.start_time < 60 * 10**9


def test_never_current(otel: Otel, installed: Watch, shop: Engine) -> None:
    """What the program traces within a session stays the request's child."""
    with otel.tracer.start_as_current_span("request") as request, Session(shop):
        assert trace.get_current_span() is request
        with otel.tracer.start_as_current_span("work"):
            pass
    assert parent_id(otel.named("work")) == request.get_span_context().span_id


def test_each_life_of_a_session(otel: Otel, installed: Watch, shop: Engine) -> None:
    """A session that is used again after a close has a span for each of its lives, each under its own request."""
    session = Session(shop)
    for name in ("first", "second"):
        with otel.tracer.start_as_current_span(name):
            session.execute(text("SELECT 1"))
            session.close()
    assert [parent_id(span) for span in otel.sessions] == [otel.named("second").context.span_id]


def test_savepoints_and_statements_make_no_span(otel: Otel, installed: Watch, shop: Engine) -> None:
    """However much a session does, it is one span."""
    with otel.tracer.start_as_current_span("request"), Session(shop) as session:
        for _ in range(3):
            with session.begin_nested():
                session.add(Order())
            session.commit()
    assert [span.name for span in otel.spans] == [SESSION, "request"]


# -- which sessions have one --------------------------------------------------------------------------


def test_none_without_a_parent(otel: Otel, installed: Watch, shop: Engine) -> None:
    """A session outside of any span, without a finding, is no trace of its own."""
    read(shop)
    assert otel.spans == []


def test_none_for_a_finding_without_a_parent(otel: Otel, installed: Watch, shop: Engine) -> None:
    """A session outside of any span that has a finding is no trace of its own either: the finding is a log record."""
    lose(shop)
    assert otel.spans == []
    (record,) = otel.logs
    assert (record.attributes["sessionwatch.rule"], record.trace_id) == ("lost-writes", 0)


@pytest.mark.parametrize("sampler", [ParentBased(ALWAYS_OFF), ALWAYS_ON])
def test_none_where_the_parent_is_not_sampled(install: Installer, shop: Engine, sampler: Sampler) -> None:
    """An unsampled request has no spans of sessions, whatever the sampler would say: a finding is its log record."""
    otel, elsewhere = Otel(sampler=sampler), Otel(sampler=ALWAYS_OFF)
    with install(otel.providers) as watch, elsewhere.tracer.start_as_current_span("request") as request:
        read(shop)
        lose(shop)
    assert [finding.rule for finding in watch.findings] == ["lost-writes"]
    assert otel.spans == []
    (record,) = otel.logs
    assert (record.trace_id, record.span_id) == (
        request.get_span_context().trace_id,
        request.get_span_context().span_id,
    )


def test_option_leaves_them_out(otel: Otel, install: Installer, shop: Engine) -> None:
    """With ``telemetry.spans`` off, a sampled request has the event of a finding, and no span of a session."""
    settings = {"telemetry.spans": False, "breaker.share": 1.0}
    with install(otel.providers, settings=settings), otel.tracer.start_as_current_span("request"):
        read(shop)
        lose(shop)
        leave(shop)
        gc.collect()
    assert [span.name for span in otel.spans] == ["request"]
    assert [event.name for event in otel.named("request").events] == ["sessionwatch.finding"]
    assert {record.trace_id for record in otel.logs} == {otel.named("request").context.trace_id}
    assert len(otel.logs) == 3


# -- threads and tasks --------------------------------------------------------------------------------


def test_thread_that_carries_the_context(otel: Otel, installed: Watch, shop: Engine) -> None:
    """A session in a worker thread is the request's child where the thread runs in the request's context."""
    with otel.tracer.start_as_current_span("request") as request, ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.copy_context().run, read, shop).result()
    assert parent_id(otel.session) == request.get_span_context().span_id


def test_opened_here_closed_in_another_thread(otel: Otel, installed: Watch, shop: Engine) -> None:
    """The parent is the span at the opening, whatever is current where the session is closed."""
    with otel.tracer.start_as_current_span("request") as request:
        session = Session(shop)
        session.execute(text("SELECT 1"))
        with ThreadPoolExecutor(1) as pool:
            pool.submit(session.close).result()
    assert parent_id(otel.session) == request.get_span_context().span_id


def test_closed_after_the_request(otel: Otel, installed: Watch, shop: Engine) -> None:
    """A session that outlives its request is still that one's child."""
    with otel.tracer.start_as_current_span("request") as request:
        session = Session(shop)
    with otel.tracer.start_as_current_span("next"):
        session.close()
    assert parent_id(otel.session) == request.get_span_context().span_id


async def test_asyncio(otel: Otel, installed: Watch, async_shop: AsyncEngine) -> None:  # noqa: F811
    """Sessions of concurrent requests are each the child of their own request, also where close() has its own task."""

    async def request(name: str) -> None:
        with otel.tracer.start_as_current_span(name):
            async with AsyncSession(async_shop) as session:
                await session.scalars(select(Order))
                await asyncio.sleep(0)

    await asyncio.gather(*(request(f"request {number}") for number in range(3)))
    requests = {otel.named(f"request {number}").context.span_id for number in range(3)}
    assert {parent_id(span) for span in otel.sessions} == requests
    assert {attributes(span)["sessionwatch.session.kind"] for span in otel.sessions} == {"async"}


async def test_dependency_that_another_task_closes(otel: Otel, installed: Watch, async_shop: AsyncEngine) -> None:  # noqa: F811
    """A session that a dependency made in the request and a later task closes is the request's child."""
    with otel.tracer.start_as_current_span("request") as request:
        session = AsyncSession(async_shop)
        await session.scalars(select(Order))
    await asyncio.create_task(session.close())
    assert parent_id(otel.session) == request.get_span_context().span_id


# -- findings -----------------------------------------------------------------------------------------


def test_finding_is_on_both_spans(otel: Otel, installed: Watch, shop: Engine) -> None:
    """The current span has an event; the session's span a link to that one, the rule, and the status of an error."""
    with otel.tracer.start_as_current_span("request"), otel.tracer.start_as_current_span("step"):
        lose(shop)
    (finding,) = installed.findings
    span, step = otel.session, otel.named("step")
    (event,) = step.events
    (link,) = span.links
    assert event.name == "sessionwatch.finding"
    assert dict(event.attributes) == dict(link.attributes)
    assert event.attributes["sessionwatch.fingerprint"] == finding.fingerprint
    assert event.attributes["code.line.number"] == finding.line
    assert link.context.span_id == step.context.span_id
    assert list(span.events) == list(otel.named("request").events) == []
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "lost-writes")
    assert attributes(span)["error.type"] == "lost-writes"
    assert attributes(span)["sessionwatch.findings"] == ("lost-writes",)


def test_link_to_where_it_was_found(otel: Otel, installed: Watch, shop: Engine) -> None:
    """A session of one request that a second one closes with writes in it links to the second one."""
    with otel.tracer.start_as_current_span("first") as first:
        session = Session(shop)
        session.add(Order())
        session.flush()
    with otel.tracer.start_as_current_span("second") as second:
        session.close()
    (link,) = otel.session.links
    assert parent_id(otel.session) == first.get_span_context().span_id
    assert link.context.span_id == second.get_span_context().span_id


def test_advice_is_no_error(otel: Otel, installed: Watch, shop: Engine) -> None:
    """Advice is told like a fault, and leaves the status alone."""
    with Session(shop) as session:
        session.add_all(Order(items=[Item(name="bolt")]) for _ in range(6))
        session.commit()
    with otel.tracer.start_as_current_span("request"), Session(shop) as session:
        for order in session.scalars(select(Order)):
            assert order.items is not None
    assert attributes(otel.session)["sessionwatch.findings"] == ("n-plus-one",)
    assert otel.session.status.status_code is StatusCode.UNSET
    assert len(otel.named("request").events) == 1


def test_one_event_a_span_and_finding(otel: Otel, installed: Watch, shop: Engine) -> None:
    """What is found over and over in one span is one event there, so that the program's own events stay."""
    for name in ("first", "second"):
        with otel.tracer.start_as_current_span(name) as span:
            span.add_event("mine")
            for _ in range(200):
                lose(shop)
    assert [[event.name for event in otel.named(name).events] for name in ("first", "second")] == [
        ["mine", "sessionwatch.finding"]
    ] * 2
    assert len(otel.sessions) == 400


def test_no_more_of_a_session_than_it_can_hold(otel: Otel, installed: Watch, shop: Engine) -> None:
    """A session with findings without end has a bounded number of links."""
    with otel.tracer.start_as_current_span("request"):
        session = Session(shop)
        for _ in range(40):
            session.begin()
            with contextlib.suppress(DBAPIError):
                session.execute(text("INSERT INTO nowhere VALUES (1)"))
            session.execute(text("SELECT 1"))
            session.rollback()
        session.close()
    assert installed.findings[0].count == 40
    assert len(otel.session.links) == 16


def test_allowed_finding_is_told_nowhere(otel: Otel, installed: Watch, shop: Engine) -> None:
    """What an allowance covers makes no event, no link and no log record."""
    with otel.tracer.start_as_current_span("request"), sessionwatch.allow("lost-writes", reason="dry run"):
        lose(shop)
    assert list(otel.session.links) == list(otel.named("request").events) == otel.logs == []
    assert otel.session.status.status_code is StatusCode.UNSET


# -- what the collector ends --------------------------------------------------------------------------


class Busy(SpanProcessor):
    """Notes whether the SDK is called while it must not be."""

    def __init__(self) -> None:
        self.locked = False
        self.called: list[str] = []

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        self._note(span.name)

    def on_end(self, span: ReadableSpan) -> None:
        self._note(span.name)

    def _note(self, name: str) -> None:
        if self.locked and threading.current_thread() is threading.main_thread():
            self.called.append(name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        self.locked = True
        yield
        self.locked = False


class Repository:
    """Closes its session when it is deleted, as many do."""

    def __init__(self, engine: Engine) -> None:
        self.session = Session(engine)
        self.session.add(Order())
        self.session.flush()
        self.itself = self

    def __del__(self) -> None:
        self.session.close()


def abandon(engine: Engine) -> None:
    """A generator that hands out a session, and that only the collector ends."""

    def sessions() -> Iterator[Session]:
        with Session(engine) as session:
            session.add(Order())
            session.flush()
            yield session

    handed = sessions()
    next(handed)
    cycle: list[Any] = [handed]
    cycle.append(cycle)


@pytest.mark.parametrize("forget", [leave, Repository, abandon])
def test_collector_does_not_call_the_sdk(
    otel: Otel, installed: Watch, shop: Engine, forget: Callable[[Engine], object]
) -> None:
    """What the collector ends is told elsewhere, or later: this thread may be inside of one of the SDK's locks."""
    busy = Busy()
    otel.tracer_provider.add_span_processor(busy)
    gc.disable()
    try:
        with otel.tracer.start_as_current_span("request") as request:
            forget(shop)
        with busy.lock():
            gc.collect()
        assert busy.called == []
    finally:
        gc.enable()
    assert "lost-writes" in {finding.rule for finding in installed.findings}
    read(shop)
    assert parent_id(otel.session) == request.get_span_context().span_id
    assert attributes(otel.session)["sessionwatch.outcome"] in ("lost", "leaked")
    for _ in range(1200):  # the watchdog's thread may be saying the last one still
        if len(otel.session.events) == len(otel.logs) == len(installed.findings):
            break
        time.sleep(0.05)
    assert len(otel.session.events) == len(otel.logs) == len(installed.findings)


def test_span_that_is_current_by_chance(otel: Otel, installed: Watch, shop: Engine) -> None:
    """What the collector finds has nothing to do with the span that is current then, but with the opener's."""
    with otel.tracer.start_as_current_span("request") as request:
        leave(shop)
    with otel.tracer.start_as_current_span("stranger"):
        gc.collect()
    installed.uninstall()
    assert {finding.trace_id for finding in installed.findings} == {None}
    assert {record.span_id for record in otel.logs} == {request.get_span_context().span_id}
    assert list(otel.named("stranger").events) == []


def test_uninstall_tells_what_waits(otel: Otel, installed: Watch, shop: Engine) -> None:
    """Nothing that waits is lost when the installation ends."""
    with otel.tracer.start_as_current_span("request"):
        leave(shop)
    gc.collect()
    installed.uninstall()
    assert len(otel.sessions) == 1
    assert len(otel.logs) == len(installed.findings) == 2


def test_end_of_a_unit_tells_what_waits(otel: Otel, installed: Watch, shop: Engine) -> None:
    """The end of a unit of work is a safe moment."""
    with sessionwatch.unit_of_work("job"):
        with otel.tracer.start_as_current_span("step"):
            leave(shop)
        gc.collect()
    assert len(otel.sessions) == 1


def test_many_at_once(otel: Otel, installed: Watch, shop: Engine) -> None:
    """Whatever the collector finds at one go is told, each session once."""
    gc.disable()
    try:
        with otel.tracer.start_as_current_span("request"):
            for _ in range(80):
                leave(shop)
        gc.collect()
    finally:
        gc.enable()
    for _ in range(3):
        read(shop)
    assert len(otel.sessions) == 80


# -- beside the SDK's own failures --------------------------------------------------------------------


class Broken(SpanProcessor):
    """Raises on every span of ours."""

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        if span.name == SESSION:
            raise RuntimeError("on_start")


def test_processor_that_raises(otel: Otel, shop: Engine, install: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An SDK that raises is counted as an internal error; the program, and its exceptions, are as without us."""
    monkeypatch.delenv("SESSIONWATCH_TESTING", raising=False)
    otel.tracer_provider.add_span_processor(Broken())
    with install(otel.providers) as watch, otel.tracer.start_as_current_span("request"):
        read(shop)
        lose(shop)
        with pytest.raises(ZeroDivisionError), Session(shop):
            1 / 0  # noqa: B018
    assert watch.status()["internal_errors"] == {"telemetry": 3}
    assert len(otel.logs) == 1


class Storing(SpanProcessor):
    """Writes every span to a database, through a session of its own, badly."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.stored = 0

    def on_end(self, span: ReadableSpan) -> None:
        if span.name == SESSION:
            self.stored += 1
            lose(self.engine)


def test_exporter_that_uses_sessions(otel: Otel, installed: Watch, shop: Engine) -> None:
    """Sessions that an exporter uses while it is given our span make no spans in their turn."""
    storing = Storing(shop)
    otel.tracer_provider.add_span_processor(storing)
    with otel.tracer.start_as_current_span("request"):
        lose(shop)
    assert storing.stored == 1
    assert len(otel.sessions) == len(otel.logs) == 1


def test_no_thread(otel: Otel, shop: Engine, install: Installer) -> None:
    """Spans and log records need no thread of ours."""
    before = set(threading.enumerate())
    with install(otel.providers), otel.tracer.start_as_current_span("request"):
        read(shop)
        lose(shop)
        leave(shop)
        gc.collect()
        assert {thread.name for thread in set(threading.enumerate()) - before} <= {"sessionwatch"}  # the watchdog
    assert set(threading.enumerate()) == before


# -- modes and providers ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["log", "strict"])
def test_other_modes_make_no_spans(otel: Otel, shop: Engine, install: Installer, mode: str) -> None:
    """Development and tests make neither spans nor events nor OpenTelemetry's log records."""
    with (
        install(otel.providers, mode=mode, log=False, rules={"config": "off"}) as watch,
        otel.tracer.start_as_current_span("request"),
    ):
        with suppress(FindingError):
            lose(shop)
        assert [finding.rule for finding in watch.findings] == ["lost-writes"]
    assert [span.name for span in otel.spans] == ["request"]
    assert list(otel.named("request").events) == otel.logs == []


def test_switched_modes(otel: Otel, installed: Watch, shop: Engine) -> None:
    """Another mode for a block makes no spans in it, and goes on with them after it."""
    with otel.tracer.start_as_current_span("request"):
        with installed.switched("log"):
            read(shop)
        assert otel.sessions == []
        read(shop)
    assert len(otel.sessions) == 1


@pytest.mark.parametrize("known", [True, False])
def test_provider_that_is_replaced(
    shop: Engine, install: Installer, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Without a provider of its own, each span goes to the global one of its time, wherever the API keeps that."""
    first, second = Otel(), Otel()
    if not known:
        monkeypatch.setattr(signals, "_set_globally", lambda: None)
    caller = NonRecordingSpan(SpanContext(1, 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    with install(), trace.use_span(caller):
        lose(shop)
        for otel in (first, second):
            monkeypatch.setattr(trace, "_TRACER_PROVIDER", otel.tracer_provider)
            lose(shop)
    assert (len(first.sessions), len(second.sessions)) == (1, 1)


@pytest.mark.parametrize("known", [True, False])
def test_late_provider_is_noticed_once(
    otel: Otel, installed: Watch, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """A provider that is set after the installation is noticed, once, wherever the API keeps it."""
    if not known:
        monkeypatch.setattr(signals, "_set_globally", lambda: None)
    noticed: list[None] = []
    looking = signals.Signals(installed.tracker, on_provider=lambda: noticed.append(None))
    looking.look()
    looking.look()
    assert len(noticed) == 1  # what the API has until one is set
    monkeypatch.setattr(_logs._internal, "_LOGGER_PROVIDER", otel.logger_provider)
    looking.look()
    looking.look()
    assert len(noticed) == 2


def test_provider_that_was_shut_down(otel: Otel, installed: Watch, shop: Engine) -> None:
    """After the SDK's shutdown the program goes on, without spans."""
    otel.shutdown()
    with otel.tracer.start_as_current_span("request"):
        lose(shop)
    assert otel.spans == []
    assert installed.status()["internal_errors"] == {}


def test_undone(otel: Otel, installed: Watch, shop: Engine) -> None:
    """After ``uninstall()`` sessions, also those that were open, make no spans."""
    with otel.tracer.start_as_current_span("request"):
        session = Session(shop)
        session.execute(text("SELECT 1"))
        installed.uninstall()
        session.close()
        read(shop)
    assert [span.name for span in otel.spans] == ["request"]


# -- beside opentelemetry-instrumentation-sqlalchemy --------------------------------------------------


@contextmanager
def contrib(otel: Otel, engine: Engine | None = None) -> Iterator[None]:
    """The other instrumentor, made to accept this SQLAlchemy."""
    theirs = SQLAlchemyInstrumentor()
    keywords = {"engine": engine} if engine is not None else {}
    theirs.instrument(tracer_provider=otel.tracer_provider, skip_dep_check=True, **keywords)
    try:
        yield
    finally:
        theirs.uninstrument()


def work(otel: Otel, engine: Engine) -> list[tuple[str, str | None]]:
    """A request with a session; each span but ours with the name of its parent."""
    with otel.tracer.start_as_current_span("request"), Session(engine) as session:
        order = session.scalars(select(Order).options(selectinload(Order.items))).first()
        assert order is not None
        session.add(Customer(name="Grace"))
        session.commit()
    names = {span.context.span_id: span.name for span in otel.spans}
    rest = [span for span in otel.spans if span.name != SESSION]
    return sorted((span.name, names.get(parent_id(span) or 0)) for span in rest)


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_beside_the_other_instrumentor(shop: Engine, install: Installer, order: str) -> None:
    """Their CLIENT spans are what they are without us, children of the request; ours is one more beside them."""
    without = Otel()
    with contrib(without, shop):
        expected = work(without, shop)
    otel = Otel()
    if order == "ours first":
        with install(otel.providers), contrib(otel, shop):
            seen = work(otel, shop)
    else:
        with contrib(otel, shop), install(otel.providers):
            seen = work(otel, shop)
    assert seen == expected
    assert len([span for span in otel.spans if span.kind is SpanKind.CLIENT]) >= 3
    assert parent_id(otel.session) == otel.named("request").context.span_id
    with install(otel.providers):
        assert work(otel, shop).count(("request", None)) == 2  # theirs is off again, and ours alone
    assert len(otel.sessions) == 2


def test_other_instrumentor_first_engine_later(shop: Engine, install: Installer) -> None:
    """The same with an engine that is made when both are installed."""
    otel = Otel()
    with install(otel.providers), contrib(otel):
        engine = sqlalchemy.create_engine("sqlite://")
        with otel.tracer.start_as_current_span("request"), Session(engine) as session:
            session.execute(text("SELECT 1"))
    assert parent_id(otel.session) == otel.named("request").context.span_id
    assert [span.name for span in otel.spans if span.kind is SpanKind.CLIENT] == ["connect", "SELECT"]
