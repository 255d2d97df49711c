"""``session-leak``: sessions that nobody closed, and those that only look like it."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sessionwatch import FindingError, unit_of_work
from sessionwatch.hooks import sessions
from sessionwatch.output import messages
from sessionwatch.record import life
from sessionwatch.watch.watch import Watch
from tests.rules.models import Order, Tag
from tests.rules.places import evidence_line, is_idle, labels, line, only

pytestmark = [  # connections are dropped on purpose here, some of them while their loop ends
    pytest.mark.filterwarnings("ignore:The garbage collector:sqlalchemy.exc.SAWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


def forget(engine: Engine) -> None:
    session = Session(engine)  # forget-open
    session.scalars(select(Tag)).all()
    session.scalars(select(Order)).all()  # forget-last


# -- collected ----------------------------------------------------------------------------------------------


def test_reports_a_session_that_was_dropped(shop: Engine, watch: Watch) -> None:
    """A collected session points at where it was made, and names its last statement."""
    forget(shop)
    gc.collect()
    finding = only(watch, "session-leak")
    assert finding.message == "a session was dropped with its connection checked out"
    assert (finding.subject, finding.line) == ("forget", line("forget-open"))
    assert labels(finding) == ["executed", "opened"]
    assert evidence_line(finding, "executed") == line("forget-last")
    assert finding.evidence[0].note == "SELECT orders, the last of 2 statements"


def test_reports_a_dropped_session_on_mariadb(mariadb_shop: Engine, watch: Watch) -> None:
    """MariaDB's connections leak as well."""
    forget(mariadb_shop)
    gc.collect()
    assert only(watch, "session-leak").line == line("forget-open")


def test_reports_a_generator_that_never_closes(shop: Engine, watch: Watch) -> None:
    """A provider without finally leaves the closing to the collector."""

    def get_session() -> Iterator[Session]:
        yield Session(shop)  # leaking-provider

    next(get_session()).scalars(select(Order)).all()
    gc.collect()
    assert only(watch, "session-leak").line == line("leaking-provider")


def test_reports_a_session_that_was_reused_and_dropped(shop: Engine, watch: Watch) -> None:
    """Closing by hand and using it again begins another life, which is leaked here."""
    session = Session(shop)  # reused-open
    session.scalars(select(Order)).all()
    session.close()
    session.scalars(select(Order)).all()
    del session
    gc.collect()
    assert only(watch, "session-leak").line == line("reused-open")


def test_counts_one_place_once(shop: Engine, watch: Watch) -> None:
    """The same place leaking three times is one finding with a count."""
    for _ in range(3):
        forget(shop)
        gc.collect()
    assert only(watch, "session-leak").count == 3


def test_reports_lost_writes_and_leak_of_one_session(shop: Engine, watch: Watch) -> None:
    """A dropped session that wrote is two faults."""
    session = Session(shop)
    session.add(Order())
    session.flush()
    del session
    gc.collect()
    assert sorted(finding.rule for finding in watch.findings) == ["lost-writes", "session-leak"]


async def test_reports_an_async_session_that_was_dropped(async_shop: AsyncEngine, watch: Watch) -> None:
    """An AsyncSession that nobody closed."""

    async def forget() -> None:
        session = AsyncSession(async_shop)  # async-open
        await session.scalars(select(Order))

    await forget()
    gc.collect()
    finding = only(watch, "session-leak")
    assert finding.message == "an async session was dropped with its connection checked out"
    assert (finding.subject, finding.line) == (finding.function, line("async-open"))
    assert finding.fix == "close it where it is made: `async with AsyncSession(engine) as session:`"


async def test_ignores_an_async_session_dropped_without_a_connection(async_shop: AsyncEngine, watch: Watch) -> None:
    """One that began a transaction and took no connection holds nothing."""

    async def forget() -> None:
        await AsyncSession(async_shop).begin()

    await forget()
    gc.collect()
    assert watch.findings == []


async def test_reports_a_task_that_was_cancelled_before_its_close(async_shop: AsyncEngine, watch: Watch) -> None:
    """A cancelled task that has no with block leaves its session behind."""
    waiting = asyncio.Event()

    async def work() -> None:
        session = AsyncSession(async_shop)  # cancelled-open
        await session.scalars(select(Order))
        waiting.set()
        await asyncio.Event().wait()
        await session.close()

    task = asyncio.create_task(work())
    await waiting.wait()
    task.cancel()
    await asyncio.wait({task})
    del task
    await asyncio.sleep(0)  # the loop lets go of the task, and with it of the traceback
    gc.collect()
    assert only(watch, "session-leak").line == line("cancelled-open")


# -- the end of a unit, the end of the program --------------------------------------------------------------


def test_reports_a_session_that_is_open_at_the_end_of_its_unit(shop: Engine, watch: Watch) -> None:
    """A unit of work has to give back its connections."""
    with unit_of_work("nightly"):
        session = Session(shop)  # unit-open
        session.scalars(select(Order)).all()
    finding = only(watch, "session-leak")
    assert finding.message == "a session was open at the end of its unit with its connection checked out"
    assert (finding.line, finding.unit) == (line("unit-open"), "nightly")
    session.close()
    assert watch.findings == [finding]


async def test_reports_an_async_session_that_is_open_at_the_end_of_its_unit(
    async_shop: AsyncEngine, watch: Watch
) -> None:
    """The same with an async unit."""
    async with unit_of_work("nightly"):
        session = AsyncSession(async_shop)  # async-unit-open
        await session.scalars(select(Order))
    finding = only(watch, "session-leak")
    assert (finding.line, finding.unit) == (line("async-unit-open"), "nightly")
    await session.close()


def test_reports_a_leak_of_a_unit_once(shop: Engine, watch: Watch) -> None:
    """What was reported at the unit's end is not reported by the collector again."""
    with unit_of_work("nightly"):
        session = Session(shop)
        session.scalars(select(Order)).all()
    del session
    gc.collect()
    assert only(watch, "session-leak").count == 1


def run_program(folder: Path, body: str) -> list[dict[str, Any]]:
    """Run a program with an engine and an installation; its findings."""
    head = """
        import asyncio, sessionwatch
        sessionwatch.install(output="findings.jsonl", rules={"config": "off"})
        from sqlalchemy import create_engine, select
        from sqlalchemy.orm import Session
        from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
        from tests.rules.models import Order, create
        engine = create_engine("sqlite:///shop.db")
        async_engine = create_async_engine("sqlite+aiosqlite:///shop.db")
        create(engine)
    """
    (folder / "program.py").write_text(textwrap.dedent(head).strip() + "\n" + textwrap.dedent(body).strip() + "\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "SESSIONWATCH_TESTING": "1"}
    done = subprocess.run([sys.executable, "program.py"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(found) for found in (folder / "findings.jsonl").read_text().splitlines()]


def test_reports_a_session_that_is_open_when_the_program_ends(tmp_path: Path) -> None:
    """At exit, the place is where the session was made."""
    (finding,) = run_program(tmp_path, "session = Session(engine)\nsession.scalars(select(Order)).all()")
    assert finding["message"] == "a session was never closed and still held a connection at exit"
    assert (finding["rule"], finding["path"], finding["line"]) == ("session-leak", "program.py", 10)


def test_reports_an_async_session_that_is_open_when_the_program_ends(tmp_path: Path) -> None:
    """The same with asyncio.run(); the session outlives its loop."""
    program = """
        async def main():
            global session
            session = AsyncSession(async_engine)
            await session.connection()
        asyncio.run(main())
    """
    (finding,) = run_program(tmp_path, program)
    assert finding["message"] == "an async session was never closed and still held a connection at exit"
    assert (finding["path"], finding["line"], finding["function"]) == ("program.py", 12, "main")


def test_ignores_programs_that_end_with_idle_sessions(tmp_path: Path) -> None:
    """A session that never began, one that committed, and one that was closed hold nothing at exit."""
    program = """
        never = Session(engine)
        committed = Session(engine)
        committed.add(Order())
        committed.commit()
        closed = Session(engine)
        closed.scalars(select(Order)).all()
        closed.close()
        never_async = AsyncSession(async_engine)
    """
    assert run_program(tmp_path, program) == []


# -- silent -------------------------------------------------------------------------------------------------


def test_ignores_a_session_that_never_began(shop: Engine, watch: Watch) -> None:
    """Making a session takes nothing."""
    with unit_of_work("nightly"):
        Session(shop)
    gc.collect()
    assert watch.findings == []


async def test_ignores_an_async_session_that_never_began(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same for AsyncSession."""
    async with unit_of_work("nightly"):
        AsyncSession(async_shop)
    gc.collect()
    assert watch.findings == []


def test_ignores_a_session_that_was_begun_and_never_used(shop: Engine, watch: Watch) -> None:
    """begin() alone checks out no connection."""
    Session(shop).begin()
    gc.collect()
    assert watch.findings == []


def test_ignores_a_registry_that_is_removed(shop: Engine, watch: Watch) -> None:
    """scoped_session.remove() closes what it made."""
    registry = scoped_session(sessionmaker(shop))
    with unit_of_work("request"):
        registry.scalars(select(Order)).all()
        registry.remove()
    gc.collect()
    assert watch.findings == []


async def test_ignores_an_async_registry_that_is_removed(async_shop: AsyncEngine, watch: Watch) -> None:
    """async_scoped_session.remove() as well."""
    registry = async_scoped_session(async_sessionmaker(async_shop), scopefunc=asyncio.current_task)
    async with unit_of_work("request"):
        (await registry.scalars(select(Order))).all()
        await registry.remove()
    gc.collect()
    assert watch.findings == []


def test_ignores_a_long_lived_session_without_a_connection(shop: Engine, watch: Watch) -> None:
    """A session that commits or rolls back after each piece of work holds nothing in between."""
    with unit_of_work("worker"):
        session = Session(shop)
        for end in (session.commit, session.rollback):
            session.scalars(select(Order)).all()
            end()
    del session
    gc.collect()
    assert watch.findings == []


def test_ignores_a_long_lived_session_that_is_older_than_the_unit(shop: Engine, watch: Watch) -> None:
    """A unit answers for the sessions that were opened in it."""
    session = Session(shop)
    session.scalars(select(Order)).all()
    with unit_of_work("request"):
        session.scalars(select(Order)).all()
    assert watch.findings == []
    session.close()


async def test_ignores_an_async_session_that_was_committed_and_dropped(async_shop: AsyncEngine, watch: Watch) -> None:
    """Nothing is held after a commit."""

    async def work() -> None:
        session = AsyncSession(async_shop)
        session.add(Order())
        await session.commit()

    await work()
    gc.collect()
    assert watch.findings == []


def test_ignores_a_session_on_somebody_elses_connection(shop: Engine, watch: Watch) -> None:
    """A session bound to a Connection takes none from the pool."""
    with shop.connect() as connection:
        session = Session(connection)
        session.execute(text("SELECT 1"))
        del session
        gc.collect()
    assert watch.findings == []


def test_ignores_a_generator_that_closes(shop: Engine, watch: Watch) -> None:
    """A provider that is collected before its end still runs its finally."""

    def get_session() -> Iterator[Session]:
        session = Session(shop)
        try:
            yield session
        finally:
            session.close()

    next(get_session()).execute  # noqa: B018 (the generator ends here)
    gc.collect()
    assert watch.findings == []


async def test_ignores_an_async_generator_that_is_closed(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same with an async dependency."""

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(async_shop) as session:
            yield session

    provider = get_session()
    await (await anext(provider)).scalars(select(Order))
    await provider.aclose()
    gc.collect()
    assert watch.findings == []


# -- message and strict mode --------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "held"), [(0.04, ""), (2.0, ", transaction open for 2.0 s")])
def test_message_word_for_word(
    shop: Engine, watch: Watch, monkeypatch: pytest.MonkeyPatch, seconds: float, held: str
) -> None:
    """The whole story; only the session's number varies. A moment is not worth telling."""
    monkeypatch.chdir(Path(__file__).parent)
    monkeypatch.setattr(sessions, "perf_counter", lambda: 0.0)  # when the transaction begins
    monkeypatch.setattr(life, "perf_counter", lambda: seconds)
    forget(shop)  # forget-called
    gc.collect()
    finding = only(watch, "session-leak")
    opened = finding.evidence[-1]
    assert messages.render(finding) == textwrap.dedent(f"""\
        session-leak: a session was dropped with its connection checked out
          executed     test_session_leak.py:{line("forget-last")} in forget     SELECT orders, the last of 2 statements
          opened       test_session_leak.py:{line("forget-open")} in forget     session {opened.session}{held}
          called from  test_session_leak.py:{line("forget-called")} in test_message_word_for_word
          fix: close it where it is made: `with Session(engine) as session:`
          more: sessionwatch explain session-leak""")


def test_strict_raises_at_the_end_of_the_unit(shop: Engine, strict: Watch) -> None:
    """The unit's end is a safe point: the session can still be closed, and the pool is idle then."""
    held: list[Session] = []
    with pytest.raises(FindingError, match="session-leak") as raised:
        leak_in_unit(shop, held)
    assert raised.value.finding is only(strict, "session-leak")
    held[0].close()
    assert is_idle(shop)


def test_strict_never_replaces_an_exception_on_its_way(shop: Engine, strict: Watch) -> None:
    """A unit that fails lets its own exception out; the finding is kept for the test's report."""
    held: list[Session] = []
    with pytest.raises(KeyError, match="mine"):
        leak_in_unit(shop, held, KeyError("mine"))
    only(strict, "session-leak")
    held[0].close()
    assert is_idle(shop)


def leak_in_unit(engine: Engine, held: list[Session], error: Exception | None = None) -> None:
    with unit_of_work("nightly"):
        held.append(Session(engine))
        held[0].scalars(select(Order)).all()
        if error is not None:
            raise error


def test_strict_raises_nothing_from_the_collector(shop: Engine, strict: Watch) -> None:
    """Collection has no safe point: the finding waits for the test's report, and the pool is idle."""
    forget(shop)
    gc.collect()
    only(strict, "session-leak")
    assert is_idle(shop)


def test_reports_a_dropped_session_that_took_back_what_it_let_go_of(shop: Engine, watch: Watch) -> None:
    """What is remembered of an instance that came back to its session keeps nothing of that session's alive."""

    def take_back() -> Order:
        session = Session(shop)
        order = session.scalars(select(Order)).first()
        assert order is not None
        session.expunge_all()
        session.add(order)
        return order

    kept = take_back()
    gc.collect()
    assert only(watch, "session-leak").subject.endswith("take_back")
    assert kept.id
