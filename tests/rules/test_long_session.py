"""``long-session``: transactions that stay open, seen while they are, and those that may."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch import Finding, allow, unit_of_work
from sessionwatch.model import Evidence
from sessionwatch.output import messages
from sessionwatch.watch.watch import Watch
from tests.rules.clock import Clock
from tests.rules.models import Item, Order, Tag, seed
from tests.rules.places import evidence_line, is_idle, labels, line, only

AWAY = ThreadPoolExecutor(1)  # the watchdog looks from another thread


@pytest.fixture
def clock(watch: Watch) -> Clock:
    """The clock of `watch`."""
    return Clock(watch)


def begin(session: Session) -> None:
    session.scalars(select(Tag)).all()  # begins
    session.scalars(select(Order)).all()  # last-statement


def item(finding: Finding, label: str) -> Evidence:
    return next(each for each in finding.evidence if each.label == label)


# -- reported while it is open ----------------------------------------------------------------------------


def test_reports_an_idle_transaction(shop: Engine, watch: Watch, clock: Clock) -> None:
    """Nothing done for 5 seconds: reported before the session ends, where the transaction began."""
    with Session(shop) as session:
        begin(session)
        AWAY.submit(clock.sleep, 5).result()  # pays
        finding = only(watch, "long-session")
        assert finding.message == "a transaction was idle for more than 5 s, and was still open"
        assert (finding.subject, finding.line, finding.severity) == ("begin", line("begins"), "advice")
        assert labels(finding) == ["holds", "executed", "began", "opened"]
        assert evidence_line(finding, "holds") == line("pays")
        assert evidence_line(finding, "executed") == line("last-statement")
        assert item(finding, "executed").note == "SELECT orders, the last of 2 statements"


def test_reports_an_old_transaction_that_works(shop: Engine, watch: Watch, clock: Clock) -> None:
    """Statement after statement, for more than 30 seconds."""
    with Session(shop) as session:
        for _ in range(8):
            assert watch.findings == []
            begin(session)
            clock.sleep(4)
        assert only(watch, "long-session").message == "a transaction was open for more than 30 s, and was still open"


def test_reports_an_idle_transaction_on_mariadb(mariadb_shop: Engine, watch: Watch, clock: Clock) -> None:
    """MariaDB's transactions are no exception."""
    with Session(mariadb_shop) as session:
        begin(session)
        clock.sleep(5)
        assert only(watch, "long-session").line == line("begins")


async def test_reports_an_async_session(async_shop: AsyncEngine, watch: Watch, clock: Clock) -> None:
    """Another task has a transaction open and waits for something: it is named, with the line where it waits."""
    began, done = asyncio.Event(), asyncio.Event()

    async def checkout() -> None:
        async with AsyncSession(async_shop) as session:
            await session.scalars(select(Order))  # async-begins
            began.set()
            await done.wait()  # async-waits

    task = asyncio.create_task(checkout(), name="checkout-7")
    await began.wait()
    clock.sleep(5)
    finding = only(watch, "long-session")
    assert finding.line == line("async-begins")
    assert evidence_line(finding, "holds") == line("async-waits")
    assert item(finding, "holds").task == "checkout-7"
    assert item(finding, "holds").note == "waits or works here now"
    done.set()
    await task


async def test_reports_a_coroutine_that_blocks(async_shop: AsyncEngine, watch: Watch, clock: Clock) -> None:
    """A task that is running, not waiting, is found by its thread."""
    async with AsyncSession(async_shop) as session:
        await session.scalars(select(Order))
        AWAY.submit(clock.sleep, 5).result()  # blocks
        assert evidence_line(only(watch, "long-session"), "holds") == line("blocks")


def test_reports_a_thread_by_its_name(shop: Engine, watch: Watch, clock: Clock) -> None:
    """The holder is another thread: its name, and the line where it waits."""
    began, done = threading.Event(), threading.Event()

    def work() -> None:
        with Session(shop) as session:
            begin(session)
            began.set() or done.wait()  # thread-waits

    thread = threading.Thread(target=work, name="worker-7")
    thread.start()
    began.wait()
    clock.sleep(5)
    done.set()
    thread.join()
    finding = only(watch, "long-session")
    assert item(finding, "holds").thread == "worker-7"
    assert evidence_line(finding, "holds") == line("thread-waits")


def test_reports_a_holder_that_went_on_to_other_work(shop: Engine, watch: Watch, clock: Clock) -> None:
    """Where the thread left the functions that used the session, nothing is claimed of what it does now."""

    def opened() -> Session:
        session = Session(shop)
        begin(session)
        return session

    session = opened()
    clock.sleep(5)
    assert item(only(watch, "long-session"), "holds").note == "where the thread that began it is now"
    session.close()


def test_reports_a_connection_that_was_asked_for(shop: Engine, watch: Watch, clock: Clock) -> None:
    """Without a statement, or long before one, it is the call of ``connection()`` that began the transaction."""
    with Session(shop) as session:
        session.connection()  # asked
        clock.sleep(5)
        assert only(watch, "long-session").line == line("asked")
        begin(session)
        assert evidence_line(only(watch, "long-session"), "began") == line("asked")


def test_reports_a_first_statement_that_failed(shop: Engine, watch: Watch, clock: Clock) -> None:
    """It began the transaction all the same."""
    with Session(shop) as session:
        with pytest.raises(DBAPIError):
            session.execute(text("SELECT nothing FROM nowhere"))  # fails
        clock.sleep(5)
        assert only(watch, "long-session").line == line("fails")


def test_reports_a_transaction_in_telemetry(shop: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Telemetry takes no places of statements, but the place of the begin."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with sessionwatch.watching("telemetry", log=False) as watch, Session(shop) as session:
        begin(session)
        Clock(watch).sleep(5)
        assert only(watch, "long-session").line == line("begins")


def test_reports_each_transaction_once(shop: Engine, watch: Watch, clock: Clock) -> None:
    """An hour of waiting is one finding; the next transaction of the session is another."""
    with Session(shop) as session:
        for _ in range(2):
            begin(session)
            for _ in range(10):
                clock.sleep(360)
            session.commit()
    assert only(watch, "long-session").count == 2


def test_reports_the_whole_message(shop: Engine, watch: Watch, clock: Clock) -> None:
    """The text as users see it."""
    with Session(shop) as session:  # story-opened
        begin(session)
        AWAY.submit(clock.sleep, 7).result()  # story-holds
        finding = only(watch, "long-session")
        path, here = finding.path, "test_reports_the_whole_message"
        label = finding.session and finding.session["id"]
        rows = [row.rstrip() for row in messages.render(finding).splitlines()]
        assert rows[0] == "long-session: a transaction was idle for more than 5 s, and was still open"
        assert rows[1].startswith(f"  holds     {path}:{line('story-holds')} in {here}")
        assert rows[1].endswith(f"session {label}, waits or works here now")
        assert rows[2].startswith(f"  executed  {path}:{line('last-statement')} in begin")
        assert rows[2].endswith("SELECT orders, the last of 2 statements")
        assert rows[3].startswith(f"  began     {path}:{line('begins')} in begin")
        assert rows[3].endswith("7.0 s ago")
        assert rows[4].startswith(f"  opened    {path}:{line('story-opened')} in {here}")
        assert rows[5:] == [
            "  fix: end the transaction before the slow part, `session.commit()`, and begin another one after it",
            "  more: sessionwatch explain long-session",
        ]


# -- and taken back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_reports_how_long_it_took(
    shop: Engine, end: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However it ends: a line of the log, and the finding says so from then on."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with sessionwatch.watching("log") as watch, Session(shop) as session:
        clock = Clock(watch)
        begin(session)
        clock.sleep(41.2)
        finding = only(watch, "long-session")
        label = finding.session and finding.session["id"]
        assert watch.status()["overdue"]["long-session"] == [label]
        with caplog.at_level(logging.INFO, "sessionwatch"):
            getattr(session, end)()
        assert caplog.messages[-1] == f"long-session: the transaction of session {label} ended after 41.2 s"
        assert finding.evidence[0].label == "ended"
        assert finding.evidence[0].note == f"the transaction of session {label} ended after 41.2 s"
        assert watch.status()["overdue"]["long-session"] == []
        assert finding.count == 1


# -- what stays silent ------------------------------------------------------------------------------------


def test_ignores_a_session_without_a_transaction(shop: Engine, watch: Watch, clock: Clock) -> None:
    """A session that is open for an hour, after its commit or before its first statement, holds nothing."""
    with Session(shop) as session:
        clock.sleep(3600)
        begin(session)
        session.commit()
        clock.sleep(3600)
    assert watch.findings == []


def test_ignores_objects_that_wait_for_a_flush(shop: Engine, watch: Watch, clock: Clock) -> None:
    """add() begins SQLAlchemy's transaction, but takes no connection; its time does not count later."""
    with Session(shop) as session:
        session.add(Tag(name="late"))
        clock.sleep(3600)
        session.commit()
    assert watch.findings == []


def test_ignores_short_transactions_in_a_row(shop: Engine, watch: Watch, clock: Clock) -> None:
    """A worker that lives for hours and commits each job."""
    with Session(shop) as session:
        for _ in range(20):
            begin(session)
            clock.sleep(4)
            session.commit()
    assert watch.findings == []


def test_ignores_autocommit(shop: Engine, watch: Watch, clock: Clock) -> None:
    """In AUTOCOMMIT there is no transaction, though the session has its connection."""
    with Session(shop.execution_options(isolation_level="AUTOCOMMIT")) as session:
        begin(session)
        clock.sleep(3600)
    assert watch.findings == []


def test_ignores_a_session_within_the_transaction_of_a_test(shop: Engine, watch: Watch, clock: Clock) -> None:
    """A session that joined somebody else's transaction can't end it."""
    with shop.connect() as connection, connection.begin() as outer:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            begin(session)
            clock.sleep(3600)
        outer.rollback()
    assert watch.findings == []


@pytest.mark.parametrize("streaming", [True, False])
def test_ignores_a_stream_that_moves(shop: Engine, watch: Watch, clock: Clock, streaming: bool) -> None:
    """Rows that are fetched in chunks, one every 20 seconds, for minutes, and a commit after them."""
    with Session(shop) as session:
        session.add_all([Item(name=f"part {number}") for number in range(40)])
        session.commit()
        query = select(Item).execution_options(yield_per=4, stream_results=streaming)
        for number, _ in enumerate(session.scalars(query)):
            if number % 4 == 0:
                clock.sleep(20)
        clock.sleep(1)
        session.commit()
    assert watch.findings == []


async def test_ignores_an_async_stream_that_moves(async_shop: AsyncEngine, watch: Watch, clock: Clock) -> None:
    """AsyncSession.stream(), row by row."""
    async with AsyncSession(async_shop) as session:
        session.add_all([Item(name=f"part {number}") for number in range(20)])
        await session.commit()
        result = await session.stream(select(Item.id).execution_options(yield_per=4))
        number = 0
        async for _ in result:
            number += 1
            if number % 4 == 0:
                clock.sleep(20)
        await session.commit()
    assert number > 20
    assert watch.findings == []


def test_reports_a_stream_that_stopped(shop: Engine, watch: Watch, clock: Clock) -> None:
    """A result of which nothing was fetched for 30 seconds does not move any more."""
    with Session(shop) as session:
        session.add_all([Item(name=f"part {number}") for number in range(40)])
        session.commit()
        for _ in session.scalars(select(Item).execution_options(yield_per=4)):
            clock.sleep(20)
            assert watch.findings == []
            clock.sleep(20)
            break
        only(watch, "long-session")


def test_ignores_a_statement_that_runs(watch: Watch, clock: Clock) -> None:
    """A query of 20 seconds is not idle, whichever thread looks; it is old after 30."""
    engine = create_engine("sqlite://")
    with Session(engine) as session:
        dbapi = session.connection().connection.dbapi_connection
        assert dbapi is not None
        dbapi.create_function("pause", 1, lambda seconds: clock.sleep(seconds) or len(watch.findings))
        assert session.scalar(select(func.pause(20))) == 0
        assert session.scalar(select(func.pause(20))) == 1
        session.rollback()
    assert "is in a statement now" in item(only(watch, "long-session"), "holds").note


async def test_ignores_a_statement_that_another_task_runs(async_shop: AsyncEngine, watch: Watch, clock: Clock) -> None:
    """wait_for() runs the statement in a task of its own: the session is not idle meanwhile."""
    async with AsyncSession(async_shop) as session:
        await session.scalars(select(Tag))
        connection = await session.connection()
        slow = asyncio.create_task(session.execute(text(SLOW[connection.dialect.name])))
        while not _executing(session):  # noqa: ASYNC110 (no event tells)
            await asyncio.sleep(0)
        clock.sleep(20)
        assert watch.findings == []
        await slow


SLOW = {
    "postgresql": "SELECT pg_sleep(0.3)",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT max(i) FROM n",
}


def _executing(session: AsyncSession) -> bool:
    return bool(session.sync_session.__dict__["_sessionwatch"].executing)


def test_ignores_what_is_allowed_where_it_begins(shop: Engine, watch: Watch, clock: Clock) -> None:
    """A block around the statement that begins the transaction covers it, and so does one around the opening."""
    with Session(shop) as session:
        with allow("long-session", reason="nightly export"):
            begin(session)
        clock.sleep(60)
    with allow("long-session", reason="nightly import"):
        session = Session(shop)
    begin(session)
    clock.sleep(60)
    session.close()
    assert watch.findings == []
    assert [finding.allowed for finding in watch.allowed] == ["nightly export"]
    assert watch.allowed[0].count == 2


def test_ignores_a_provider_that_is_quick(shop: Engine, watch: Watch, clock: Clock) -> None:
    """A dependency's generator that lives long, with a commit before the wait."""

    def provide() -> Iterator[Session]:
        with Session(shop) as session:
            yield session

    for session in provide():
        begin(session)
        session.commit()
        clock.sleep(60)
    assert watch.findings == []


# -- strict -----------------------------------------------------------------------------------------------


def test_strict_is_advice(shop: Engine, strict: Watch) -> None:
    """In strict mode it is logged, not raised, and the pool is idle afterwards."""
    with Session(shop) as session:
        begin(session)
        Clock(strict).sleep(60)
    finding = only(strict, "long-session")
    assert (finding.level, finding.raised) == ("log", False)
    assert is_idle(shop)


def test_strict_never_replaces_an_exception_on_its_way(shop: Engine, strict: Watch) -> None:
    """The program's own exception leaves the block."""
    with pytest.raises(KeyError, match="mine"):
        fail(shop, Clock(strict))
    only(strict, "long-session")
    assert is_idle(shop)


def fail(engine: Engine, clock: Clock) -> None:
    with unit_of_work("job"), Session(engine) as session:
        begin(session)
        clock.sleep(60)
        raise KeyError("mine")


async def test_strict_leaves_an_async_pool_idle(async_shop: AsyncEngine, strict: Watch) -> None:
    """The same under asyncio, with a session from a provider."""

    async def provide() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(async_shop) as session:
            yield session

    async for session in provide():
        await session.scalars(select(Order))
        Clock(strict).sleep(60)
    only(strict, "long-session")
    assert is_idle(async_shop)


# -- when it is told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("worked", [0.0, 0.3, 1.1, 2.4, 3.7])
def test_it_is_told_when_the_limit_is_reached(shop: Engine, watch: Watch, clock: Clock, worked: float) -> None:
    """The next look is due at the moment at which nothing has been done for five seconds, not a sample later."""
    with Session(shop) as session:
        session.connection()
        clock.advance(worked)
        session.scalars(select(Order)).all()
        passed = 0.0
        while passed < 5.0 - 1e-6:
            assert watch.findings == []
            due = watch.watchdog.tick()
            assert due is not None
            clock.advance(due)
            passed += due
        assert passed == pytest.approx(5.0)
        watch.watchdog.tick()
        only(watch, "long-session")


def test_an_open_transaction_is_told_when_its_limit_is_reached(shop: Engine, watch: Watch, clock: Clock) -> None:
    """The same of one that is at work: thirty seconds after its begin."""
    with Session(shop) as session:
        passed = 0.0
        while passed < 30.0 - 1e-6:
            session.scalars(select(Order)).all()
            assert watch.findings == []
            due = watch.watchdog.tick()
            assert due is not None
            clock.advance(due)
            passed += due
        assert passed == pytest.approx(30.0)
        watch.watchdog.tick()
        assert only(watch, "long-session").message.startswith("a transaction was open for more than 30 s")


# -- idle, while its thread waits elsewhere ------------------------------------------------------------------


STALLS = text("SELECT stall(), stall()")  # until the watchdog has looked on


class Stall:
    """A function of SQLite's that holds up its statement, without any code of the program's on the stack."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.clock, self.barrier = clock, threading.Barrier(2)
        self.undo = (engine, "connect", self.connected)
        event.listen(*self.undo)

    def connected(self, connection: Any, _: object) -> None:
        connection.create_function("stall", 0, self.barrier.wait)

    def look(self) -> None:
        """Twelve seconds go by while the statement runs."""
        self.barrier.wait(30)
        self.clock.sleep(6)
        self.clock.sleep(6)
        self.barrier.wait(30)


@pytest.fixture
def stalling(tmp_path: Path, clock: Clock) -> Iterator[tuple[Engine, Stall]]:
    """A database whose statements may be held up."""
    engine = create_engine(f"sqlite:///{tmp_path / 'stalling.db'}")
    seed(engine)
    engine.dispose()
    yield engine, Stall(engine, clock)
    engine.dispose()


def test_reports_a_session_whose_thread_waits_in_another_connection(
    stalling: tuple[Engine, Stall], watch: Watch
) -> None:
    """The session is idle, and the story names what its thread is in."""
    engine, stall = stalling
    session = Session(engine)
    session.scalars(select(Order)).all()
    looking = AWAY.submit(stall.look)
    with engine.connect() as other:
        other.execute(STALLS)  # in-another-connection
    looking.result(30)
    finding = only(watch, "long-session")
    assert finding.message == "a transaction was idle for more than 5 s, and was still open"
    assert finding.evidence[0].note == "waits here now, in another connection, of sqlite/stalling.db"
    assert evidence_line(finding, "holds") == line("in-another-connection")
    session.close()


def test_reports_a_session_whose_thread_waits_in_another_session(stalling: tuple[Engine, Stall], watch: Watch) -> None:
    """The other session is told by its label, and is at work itself."""
    engine, stall = stalling
    session, other = Session(engine), Session(engine)
    session.scalars(select(Order)).all()
    looking = AWAY.submit(stall.look)
    other.execute(STALLS)
    looking.result(30)
    label = other.__dict__["_sessionwatch"].label
    assert only(watch, "long-session").evidence[0].note == f"waits here now, in session {label}"
    other.close()
    session.close()


def test_ignores_a_session_that_is_at_work_itself(stalling: tuple[Engine, Stall], watch: Watch) -> None:
    """A statement of its own is no idleness, however long."""
    engine, stall = stalling
    with Session(engine) as session:
        looking = AWAY.submit(stall.look)
        session.execute(STALLS)
        looking.result(30)
    assert watch.findings == []


def test_reports_a_session_whose_thread_waits_for_a_connection(tmp_path: Path, watch: Watch, clock: Clock) -> None:
    """The pool has none left: the session that its own thread holds is idle."""
    engine = create_engine(f"sqlite:///{tmp_path / 'dry.db'}", pool_size=1, max_overflow=0, pool_timeout=1)
    with Session(engine) as session:
        session.execute(text("SELECT 1"))

        def look() -> None:
            clock.sleep(6)
            clock.sleep(6)

        timer = threading.Timer(0.3, look)
        timer.start()
        with pytest.raises(PoolTimeout):
            engine.connect()
        timer.join()
    assert item(only(watch, "long-session"), "holds").note == (
        "waits here now, in the wait for another connection of a pool"
    )


async def test_reports_an_async_session_whose_task_waits_elsewhere(tmp_path: Path, watch: Watch, clock: Clock) -> None:
    """The same under asyncio, where no more is known than that the session is in no statement."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'stalling.db'}")
    barrier = threading.Barrier(2)

    def look() -> None:
        barrier.wait(30)
        clock.sleep(6)
        clock.sleep(6)
        barrier.wait(30)

    async with AsyncSession(engine) as session:
        await session.execute(text("SELECT 1"))
        looking = AWAY.submit(look)
        async with engine.connect() as other:
            driver: Any = (await other.get_raw_connection()).driver_connection
            await driver.create_function("stall", 0, barrier.wait)
            await other.execute(STALLS)
        await asyncio.wrap_future(looking)
        note = only(watch, "long-session").evidence[0].note
        assert note == "waits here now, in a call of SQLAlchemy's that is no statement of this session"
    await engine.dispose()


def test_says_that_it_works_here_only_of_a_session_that_does(shop: Engine, watch: Watch, clock: Clock) -> None:
    """A function that opened a newer session since is not at work in the one that it left open."""
    kept: list[Session] = []

    def handle() -> None:
        kept.append(Session(shop))
        kept[-1].scalars(select(Order)).all()
        if len(kept) == 2:
            clock.sleep(6)
            clock.sleep(6)

    handle()
    handle()
    notes = {finding.evidence[0].note for finding in watch.findings}
    assert notes == {"where the thread that began it is now"}
    for session in kept:
        session.close()
