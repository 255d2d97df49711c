"""``shared-connection``: two on one connection of the driver's, and one ends the other one's transaction."""

from __future__ import annotations

import gc
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from sqlalchemy import Engine, NullPool, QueuePool, StaticPool, create_engine, event, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sessionwatch import FindingError, allow, uninstall, watching
from sessionwatch.hooks import sharing
from sessionwatch.watch.watch import Watch
from tests.rules.models import Tag, create, create_async
from tests.rules.places import alone, evidence_line, labels, line, only

RULE = "shared-connection"


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Only this rule is on; our own errors raise."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("log", log=False, rules=alone(RULE)) as installed:
        yield installed


def static() -> Engine:
    return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


def creator() -> Engine:
    raw = sqlite3.connect(":memory:", check_same_thread=False)
    return create_engine("sqlite://", creator=lambda: raw, poolclass=QueuePool)


POOLS: dict[str, Callable[[], Engine]] = {
    "StaticPool": static,
    "SingletonThreadPool": lambda: create_engine("sqlite://"),
    "creator": creator,
}


@pytest.fixture(params=POOLS)
def one(request: pytest.FixtureRequest, watch: Watch) -> Engine:
    """An engine whose sessions share one connection."""
    engine = POOLS[request.param]()
    create(engine)
    return engine


def add(session: Session) -> None:
    session.add(Tag(name="x"))
    session.flush()


def count(engine: Engine) -> int:
    with Session(engine) as session:
        return len(session.scalars(select(Tag)).all())


def test_reports_a_close_that_undoes(watch: Watch, one: Engine) -> None:
    """The second session only read; its close rolls back what the first has flushed."""
    first = Session(one)
    add(first)
    second = Session(one)
    second.scalars(select(Tag)).all()
    second.close()  # undone
    first.commit()
    first.close()
    assert count(one) == 0
    found = only(watch, RULE)
    assert found.line == line("undone")
    assert labels(found) == ["closed", "written", "opened", "opened"]


def test_reports_a_rollback_that_undoes(watch: Watch, one: Engine) -> None:
    """The second session's explicit rollback is the first one's, too."""
    first, second = Session(one), Session(one)
    add(first)
    second.scalars(select(Tag)).all()
    second.rollback()  # rolled back
    first.close()
    second.close()
    found = only(watch, RULE)
    assert evidence_line(found, "rolled back") == line("rolled back")


def test_reports_a_core_connection_that_undoes(watch: Watch, one: Engine) -> None:
    """A connection without a session ends the transaction as well."""
    first = Session(one)
    add(first)
    with one.connect() as connection:
        connection.execute(select(Tag)).all()
    first.close()
    assert "because a connection closed" in only(watch, RULE).message


def test_reports_a_commit_that_publishes(watch: Watch, one: Engine) -> None:
    """The second session commits, the first rolls back: its rows are stored all the same."""
    first, second = Session(one), Session(one)
    add(first)
    second.scalars(select(Tag)).all()
    second.commit()  # published
    first.rollback()
    first.close()
    second.close()
    assert count(one) == 1
    found = only(watch, RULE)
    assert found.line == line("published")
    assert "though session" in found.message


def test_reports_threads(watch: Watch) -> None:
    """Two threads on a StaticPool."""
    engine = static()
    create(engine)
    first = Session(engine)
    add(first)
    thread = threading.Thread(target=count, args=[engine])
    thread.start()
    thread.join()
    first.close()
    assert only(watch, RULE).evidence[0].thread != only(watch, RULE).evidence[1].thread


def test_reports_what_is_written_while_another_connection_ends(watch: Watch) -> None:
    """At whichever line of ours the other thread has its turn: a debugger lets it in between any two."""
    lines = 0
    while _written_meanwhile(lines):
        lines += 1
    assert lines > 3
    assert only(watch, RULE).count == lines


def _written_meanwhile(lines: int) -> bool:
    """Write in one engine while a session of another one commits, after so many lines of ours; then have it undone."""
    ours, theirs = static(), static()
    create(ours), create(theirs)
    done = [0]
    first = Session(theirs)

    def step(frame: FrameType, event: str, _: object) -> object:
        if event == "line":
            if done[0] == lines:
                sys.settrace(None)
                add(first)
            done[0] += 1
        return step

    def look(frame: FrameType, event: str, _: object) -> object:
        return step if frame.f_code.co_filename == sharing.__file__ else None

    with Session(ours) as session:
        add(session)
        before = sys.gettrace()
        sys.settrace(look)
        try:
            session.commit()
        finally:
            sys.settrace(before)
    count(theirs)
    first.close()
    return done[0] > lines


async def test_reports_under_asyncio(watch: Watch) -> None:
    """aiosqlite in memory has a StaticPool."""
    engine = create_async_engine("sqlite+aiosqlite://")
    await create_async(engine)
    async with AsyncSession(engine) as first:
        first.add(Tag(name="x"))
        await first.flush()
        async with AsyncSession(engine) as second:  # async
            await second.scalars(select(Tag))
        await first.commit()
    found = only(watch, RULE)
    assert found.line == line("async")
    assert "await first.commit()" in (found.fix or "")
    await engine.dispose()


def test_exact_message(watch: Watch) -> None:
    """The headline and the fix, word for word."""
    engine = static()
    create(engine)
    first = Session(engine)
    add(first)
    with Session(engine) as second:
        second.scalars(select(Tag)).all()
    first.close()
    found = only(watch, RULE)
    label = found.evidence[0].session
    assert found.session is not None
    first_label = found.session["id"]
    assert found.message == (
        f"1 Tag object of session {first_label} was undone because session {label} closed on the same connection"
    )
    assert found.fix == (
        "commit before another session works on this connection: session.commit()\n"
        "or give each session a connection of its own: a database file or server, and no StaticPool"
    )


def test_strict_raises_when_the_first_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one's close goes through; the first one's has returned its connection."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("strict", log=False, rules=alone(RULE, "raise")):
        engine = static()
        create(engine)
        first = Session(engine)
        add(first)
        count(engine)
        with pytest.raises(FindingError, match=RULE):
            first.close()
        assert not first.in_transaction()


def fixed(engine: Engine) -> None:
    first = Session(engine)
    add(first)
    first.commit()
    count(engine)
    first.close()


def one_after_the_other(engine: Engine) -> None:
    for _ in range(2):
        with Session(engine) as session:
            add(session)
            session.commit()


def both_only_read(engine: Engine) -> None:
    with Session(engine) as first:
        first.scalars(select(Tag)).all()
        count(engine)
        first.scalars(select(Tag)).all()


def both_commit(engine: Engine) -> None:
    with Session(engine) as first, Session(engine) as second:
        add(first)
        add(second)
        second.commit()
        first.commit()


def joined(engine: Engine) -> None:
    with engine.connect() as connection, connection.begin() as transaction:
        first = Session(connection)
        add(first)
        with Session(connection) as second:
            second.scalars(select(Tag)).all()
        first.close()
        transaction.rollback()


def joined_with_savepoints(engine: Engine) -> None:
    with engine.connect() as connection, connection.begin() as transaction:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            add(session)
            session.commit()
            add(session)
            session.rollback()
        transaction.rollback()


def own_rollback(engine: Engine) -> None:
    with Session(engine) as session:
        add(session)
        session.rollback()
        add(session)
        session.commit()


def flushed_after_the_other(engine: Engine) -> None:
    first = Session(engine)
    first.scalars(select(Tag)).all()
    count(engine)
    add(first)
    first.commit()
    first.close()


def savepoint(engine: Engine) -> None:
    with Session(engine) as session:
        add(session)
        with session.begin_nested():
            add(session)
        session.commit()


SILENT = [
    fixed,
    one_after_the_other,
    both_only_read,
    both_commit,
    joined,
    joined_with_savepoints,
    own_rollback,
    flushed_after_the_other,
    savepoint,
]


@pytest.mark.parametrize("work", SILENT, ids=lambda work: work.__name__)
def test_ignores(work: Callable[[Engine], None], watch: Watch, one: Engine) -> None:
    """The printed fix, use in sequence, sharing on purpose, and readers."""
    work(one)
    assert watch.findings == []


def test_ignores_a_connection_each(watch: Watch, shop: Engine) -> None:
    """On a database server or file with a common pool, sessions do not meet (in memory they do)."""
    if shop.url.database is None:
        pytest.skip("a database in memory has one connection per thread")
    first = Session(shop)
    first.add(Tag(name="x"))
    first.flush()
    with Session(shop) as second:
        second.execute(text("SELECT 1"))
    first.commit()
    first.close()
    assert watch.findings == []


async def test_ignores_a_connection_each_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """The same under asyncio."""
    async with AsyncSession(async_shop) as first:
        await first.execute(insert(Tag).values(name="x"))
        async with AsyncSession(async_shop) as second:
            await second.execute(text("SELECT 1"))
        await first.commit()
    assert watch.findings == []


def test_ignores_what_a_savepoint_has_stored(watch: Watch, one: Engine) -> None:
    """SQLite's driver begins nothing for a savepoint, whose RELEASE then stores: another one's close undoes nothing."""
    first = Session(one)
    with first.begin_nested():
        add(first)
    assert count(one) == 1
    first.commit()
    first.close()
    assert count(one) == 1
    assert watch.findings == []


def test_ignores_autocommit(watch: Watch, one: Engine) -> None:
    """In AUTOCOMMIT there is no transaction to end."""
    with one.connect() as connection, connection.execution_options(isolation_level="AUTOCOMMIT"):
        connection.execute(insert(Tag).values(name="x"))
        count(one)
    assert watch.findings == []


def test_ignores_what_is_allowed(watch: Watch, one: Engine) -> None:
    """A session that was opened in a block that says why."""
    with allow(RULE, reason="looks at the pool"):
        first = Session(one)
        add(first)
        count(one)
        first.close()
    assert watch.findings == []
    assert [finding.allowed for finding in watch.allowed] == ["looks at the pool"]


def known(watch: Watch) -> int:
    """Of how many of the driver's connections something is kept."""
    return len(watch._sharing._known)


def test_keeps_nothing_of_a_connection_that_was_closed(watch: Watch, tmp_path: Path) -> None:
    """Whatever ids they had: those of the driver's connections are held here, so that none is used twice."""
    engine = create_engine(f"sqlite:///{tmp_path / 'here.db'}", poolclass=NullPool)
    held: list[object] = []
    event.listen(engine, "connect", lambda raw, _: held.append(raw))
    for _ in range(20):
        engine.connect().close()
    gc.collect()
    assert (len(held), known(watch)) == (20, 0)


def test_keeps_one_connection_of_a_record_that_opens_another(watch: Watch, tmp_path: Path) -> None:
    """As after ``pool_recycle``: a pool's record of a connection lives longer than the connection."""
    engine = create_engine(f"sqlite:///{tmp_path / 'here.db'}", poolclass=QueuePool, pool_size=1)
    held: list[object] = []
    event.listen(engine, "connect", lambda raw, _: held.append(raw))
    for _ in range(20):
        with engine.connect() as connection:
            connection.invalidate()
    assert (len(held), known(watch)) == (20, 1)


def test_uninstalling_gives_the_dialect_back(tmp_path: Path) -> None:
    """The dialect has methods of ours until then, and no longer."""
    uninstall()
    engine = static()
    with watching("log", log=False):
        create(engine)
        assert "do_rollback" in vars(engine.dialect)
    assert not {"do_rollback", "do_commit"} & set(vars(engine.dialect))
