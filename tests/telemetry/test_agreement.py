"""What findings, counters and spans say of one session is the same, whatever a program does with its sessions."""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, event, select
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

import sessionwatch
from sessionwatch.telemetry.instruments import TOTALS, Totals
from sessionwatch.watch import installation
from tests.models import Row, create
from tests.telemetry.readings import Readings
from tests.tracing.otel import Otel, attributes

OPENED, CLOSED, ACTIVE = "sessionwatch.sessions.opened", "sessionwatch.sessions.closed", "sessionwatch.session.active"
DURATION, TRANSACTION = "sessionwatch.session.duration", "sessionwatch.transaction.duration"
FINDINGS, PLACES = "sessionwatch.findings", "sessionwatch.findings.places"
LOST, LEAK = "lost-writes", "session-leak"
OURS = {rule.slug: "log" if rule.slug in (LOST, LEAK) else "off" for rule in sessionwatch.rules.ALL}


STEPS = ("add", "flush", "read", "commit", "rollback", "kept savepoint", "undone savepoint")
ENDS = ("closed", "with", "exception", "collected", "unit, closed", "unit, collected", "unit, exit", "exit")


@dataclass
class Plan:
    """What a program does with one session, and what is to be said of it: worked out from the steps alone."""

    steps: list[str]
    end: str
    added: bool = False  # and not sent
    wrote: bool = False  # and not committed
    begun: bool = False
    connected: bool = False
    committed: bool = False
    rolled_back: bool = False
    outcome: str = ""
    findings: Counter[str] = field(default_factory=Counter)
    transactions: Counter[str] = field(default_factory=Counter)

    def work_out(self) -> Plan:
        for step in self.steps:
            self._after(step)
        loses = self.wrote or self.added
        if self.end == "exception":
            self.rolled_back = self.rolled_back or self.begun
            self._ended("rolled_back")
            loses = False
        plain = "committed" if self.committed else "rolled_back" if self.rolled_back else "read_only"
        in_unit = self.end.startswith("unit") and self.connected
        dropped = self.end.endswith(("collected", "exit")) and self.connected
        self.findings[LEAK] += in_unit or dropped
        self.findings[LOST] += loses
        self.outcome = "leaked" if in_unit else "lost" if loses else "leaked" if dropped else plain
        of_transaction = "lost" if loses else "leaked" if dropped else "read_only"
        self._ended(of_transaction)
        return self

    def _after(self, step: str) -> None:
        if step == "add":
            self.added = self.begun = True
        elif step == "commit":
            self.connected = self.connected or self.added
            self.committed = True
            self._ended("committed")
        elif step == "rollback":
            self.rolled_back = self.rolled_back or self.begun
            self._ended("rolled_back")
        else:
            self.wrote = self.wrote or self.added or step in ("flush", "kept savepoint")
            self.added, self.begun, self.connected = False, True, True

    def _ended(self, how: str) -> None:
        self.transactions[how] += self.connected
        self.added = self.wrote = self.begun = self.connected = False


def take(session: Session, step: str) -> None:
    if step == "add":
        session.add(Row())
    elif step == "flush":
        session.add(Row())
        session.flush()
    elif step == "read":
        session.scalars(select(Row)).all()
    elif step == "kept savepoint":
        with session.begin_nested():
            session.add(Row())
    elif step == "undone savepoint":
        savepoint = session.begin_nested()
        session.add(Row())
        session.flush()
        savepoint.rollback()
    else:
        getattr(session, step)()


def database() -> Engine:
    """One of its own for each session: a session that is left open locks nobody out. Savepoints as SQLite has them."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"isolation_level": None})
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    create(engine, Row)
    return engine


class FailedError(Exception):
    """The program's own."""


def run(plan: Plan, engine: Engine, kept: list[Session]) -> None:
    """One session from its opening to the end of its unit; one that stays is in ``kept``."""
    with sessionwatch.unit_of_work("work") if plan.end != "exit" else nullcontext():
        if plan.end in ("with", "exception"):
            try:
                with Session(engine) as session:
                    for step in plan.steps:
                        take(session, step)
                    if plan.end == "exception":
                        raise FailedError
            except FailedError:
                pass
            return
        session = Session(engine)
        for step in plan.steps:
            take(session, step)
        if plan.end == "closed":
            session.close()
        elif plan.end != "collected":
            kept.append(session)
        del session
        if plan.end == "collected":
            gc.collect()


@pytest.fixture(scope="module")
def engines() -> list[Engine]:
    return [database() for _ in range(3)]


PLANS = st.lists(
    st.builds(Plan, st.lists(st.sampled_from(STEPS), max_size=5), st.sampled_from(ENDS)), min_size=1, max_size=3
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(plans=PLANS)
@example([Plan(["flush"], "exception")])
@example([Plan(["read"], "unit, closed") for _ in range(3)])
@example([Plan(["flush"], "collected")])
@example([Plan(["add"], "exit"), Plan(["read"], "exit"), Plan([], "exit")])
def test_findings_counters_and_spans_agree(engines: list[Engine], plans: list[Plan]) -> None:
    """Each session is in one series, which its findings, its transactions and its span bear out."""
    for plan in plans:
        plan.work_out()
    sessionwatch.uninstall()
    vars(TOTALS).update(vars(Totals()))
    otel, kept = Otel(), list[Session]()
    readings = Readings(otel.reader, otel.meter_provider)
    watch = installation.install(mode="telemetry", rules=OURS, log=False, providers=otel.providers)
    try:
        with otel.tracer.start_as_current_span("request"):
            for plan, engine in zip(plans, engines, strict=False):
                run(plan, engine, kept)
            told = Counter(watch.status()["sessions"]["closed"])
            assert told.total() >= sum(plan.end not in ("exit", "unit, exit") for plan in plans) - len(kept)
            assert readings.values(ACTIVE) == ({("sync",): len(kept)} if kept else {})
            before = {name: readings.values(name) for name in (DURATION, TRANSACTION)}
            _end(plans, kept)
            watch.ends.at_exit()
        _compare(plans, readings, otel, before)
    finally:
        watch.uninstall()
        for session in kept:
            session.close()
        otel.shutdown()


def _end(plans: list[Plan], kept: list[Session]) -> None:
    """What becomes of the sessions that outlived their units."""
    left = [plan for plan in plans if plan.end.startswith("unit") or plan.end == "exit"]
    stay = []
    while kept:
        session, plan = kept.pop(0), left.pop(0)
        if plan.end == "unit, closed":
            session.close()
        elif plan.end.endswith("exit"):
            stay.append(session)
        del session
    if any(plan.end == "unit, collected" for plan in plans):
        gc.collect()
    kept += stay


def _compare(plans: list[Plan], readings: Readings, otel: Otel, before: dict[str, Any]) -> None:
    """``before``: histograms of the collection before; an older SDK leaves out those without a sample since."""
    outcomes = Counter(plan.outcome for plan in plans)
    findings: Counter[str] = sum((plan.findings for plan in plans), Counter())
    transactions: Counter[str] = sum((plan.transactions for plan in plans), Counter())
    names = (OPENED, CLOSED, ACTIVE, DURATION, TRANSACTION)
    metrics: dict[str, Any] = {name: before.get(name, {}) | readings.values(name) for name in names}
    assert metrics[CLOSED] == metrics[DURATION] == {(outcome, "sync"): count for outcome, count in outcomes.items()}
    assert metrics[OPENED] == {("sync",): len(plans)}
    assert metrics[ACTIVE] == {}
    assert metrics[TRANSACTION] == {(outcome,): count for outcome, count in transactions.items()}
    assert readings.values(FINDINGS) == {("telemetry", rule): count for rule, count in findings.items()}
    places: Counter[str] = Counter()
    for (_, _, rule, _), count in readings.values(PLACES).items():
        places[rule] += count
    assert places == findings
    assert Counter(attributes(span)["sessionwatch.outcome"] for span in otel.sessions) == outcomes


def test_leaked_session_that_goes_on(engines: list[Engine]) -> None:
    """As a registry's, which is left open and used in the next unit: counted once, and watched as before."""
    sessionwatch.uninstall()
    vars(TOTALS).update(vars(Totals()))
    otel = Otel()
    readings = Readings(otel.reader, otel.meter_provider)
    with installation.install(mode="telemetry", rules=OURS, log=False, providers=otel.providers) as watch:
        session = Session(engines[0])
        with sessionwatch.unit_of_work("work") as unit:
            unit.opened(session.__dict__["_sessionwatch"])
            take(session, "read")
        assert readings.values(CLOSED) == {("leaked", "sync"): 1}
        assert readings.values(ACTIVE) == {("sync",): 1}
        session.rollback()
        take(session, "flush")
        session.commit()
        session.close()
        assert readings.values(OPENED) == {("sync",): 1}
        assert readings.values(CLOSED) == readings.values(DURATION) == {("leaked", "sync"): 1}
        assert readings.values(TRANSACTION) == {("committed",): 1, ("rolled_back",): 1}
        assert readings.values(ACTIVE) == {}
        with session:
            take(session, "read")
        assert readings.values(CLOSED) == {("leaked", "sync"): 1, ("read_only", "sync"): 1}
        assert watch.status()["sessions"]["closed"] == {"leaked, sync": 1, "read_only, sync": 1}
    otel.shutdown()
