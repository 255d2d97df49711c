"""``config``: settings that lead to faults, where they take effect."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import StaticPool

import sessionwatch
from sessionwatch import FindingError, uninstall, watching
from sessionwatch.output import messages
from sessionwatch.watch.watch import Watch
from tests.models import Row, create
from tests.rules import models
from tests.rules.models import Customer, Order, Tag
from tests.rules.places import evidence_line, is_idle, labels, line, only


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Installed in mode ``log`` with all defaults."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("log", log=False) as installed:
        yield installed


def file_engine(folder: Path) -> Engine:
    engine = create_engine(f"sqlite:///{folder / 'config.db'}")  # config-engine
    models.create(engine)
    return engine


# -- foreign keys -------------------------------------------------------------------------------------------


def test_reports_sqlite_without_foreign_keys(tmp_path: Path, watch: Watch) -> None:
    """At the first flush, once an engine, at the line that made it."""
    engine = file_engine(tmp_path)
    for _ in range(2):
        with Session(engine) as session:
            session.add(Order())
            session.commit()  # config-flush
    finding = only(watch, "config")
    assert finding.message == "SQLite does not enforce the foreign keys that the tables declare"
    assert finding.line == line("config-engine")
    assert labels(finding) == ["flushed", "made"]
    assert evidence_line(finding, "flushed") == line("config-flush")
    assert finding.count == 1


async def test_reports_aiosqlite_without_foreign_keys(tmp_path: Path, watch: Watch) -> None:
    """The same under asyncio, without a question to the connection's thread."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'config.db'}")  # config-aiosqlite
    await models.create_async(engine)
    async with AsyncSession(engine) as session:
        session.add(Order())
        await session.commit()
    await engine.dispose()
    finding = only(watch, "config")
    assert finding.line == line("config-aiosqlite")
    assert "listens_for(engine.sync_engine" in finding.fix


def test_reports_an_engine_that_was_there_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the engine's line is not known the flush is the place, and the message says why."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    engine = file_engine(tmp_path)
    with watching("log", log=False) as watch, Session(engine) as session:
        session.add(Order())
        session.commit()  # config-before
        finding = only(watch, "config")
    assert finding.line == line("config-before")
    assert [item.note for item in finding.evidence if item.label == "made"] == ["before sessionwatch was installed"]


def test_ignores_enforced_foreign_keys(shop: Engine, watch: Watch) -> None:
    """A listener switched them on; other databases always enforce them."""
    with Session(shop) as session:
        session.add(Order())
        session.commit()
    assert watch.findings == []


async def test_ignores_enforced_foreign_keys_of_asyncio(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio: a listener may have switched them on, and nobody asks."""
    async with AsyncSession(async_shop) as session:
        session.add(Order())
        await session.commit()
    assert watch.findings == []


def test_ignores_a_pragma_that_was_run_by_hand(watch: Watch) -> None:
    """What counts is the connection's flag, however it was set."""
    engine = create_engine("sqlite://")
    models.create(engine)
    with Session(engine) as session:
        session.execute(text("PRAGMA foreign_keys=ON"))
        session.add(Order())
        session.commit()
    assert watch.findings == []


def test_ignores_sqlite_without_declared_foreign_keys(watch: Watch) -> None:
    """Tables without foreign keys have none to enforce."""
    engine = create_engine("sqlite://")
    create(engine, Row)
    with Session(engine) as session:
        session.add(Row())
        session.commit()
    assert watch.findings == []


def test_ignores_sqlite_that_is_only_read(tmp_path: Path, watch: Watch) -> None:
    """Foreign keys matter where rows are written."""
    with Session(file_engine(tmp_path)) as session:
        session.scalars(select(Order)).all()
    assert watch.findings == []


def test_the_flag_is_read_without_a_statement_of_the_program(tmp_path: Path, watch: Watch) -> None:
    """No event of SQLAlchemy's sees a statement that the program did not run, and the transaction is the program's."""
    engine = file_engine(tmp_path)
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *rest: statements.append(statement))
    with Session(engine) as session:
        session.add(Tag(name="a"))
        session.flush()
        raw = session.connection().connection.dbapi_connection
        assert getattr(raw, "in_transaction", None) is True
        session.rollback()
    assert only(watch, "config")
    assert len(statements) == 1


# -- expire_on_commit ---------------------------------------------------------------------------------------


async def test_reports_an_async_sessionmaker_that_expires(async_shop: AsyncEngine, watch: Watch) -> None:
    """At the maker's line, once: the commit emptied what the session held."""
    maker = async_sessionmaker(async_shop)  # config-maker
    for _ in range(2):
        async with maker() as session:
            order = (await session.scalars(select(Order))).one()
            await session.commit()  # config-commit
            del order
    finding = only(watch, "config")
    assert finding.line == line("config-maker")
    assert evidence_line(finding, "committed") == line("config-commit")
    assert finding.fix == "async_sessionmaker(engine, expire_on_commit=False)"


async def test_ignores_an_async_sessionmaker_that_does_not_expire(async_shop: AsyncEngine, watch: Watch) -> None:
    """expire_on_commit=False, given to the maker or to one session."""
    for maker, given in ((async_sessionmaker(async_shop, expire_on_commit=False), {}), (async_sessionmaker(async_shop), {"expire_on_commit": False})):  # fmt: skip  # noqa: E501
        async with maker(**given) as session:
            order = (await session.scalars(select(Order))).one()
            await session.commit()
            assert order.status == "new"
    assert watch.findings == []


async def test_ignores_an_async_sessionmaker_whose_sessions_only_read(async_shop: AsyncEngine, watch: Watch) -> None:
    """Without a commit, and with nothing held at the commit, nothing expires."""
    maker = async_sessionmaker(async_shop)
    async with maker() as session:
        order = (await session.scalars(select(Order))).one()
        assert order.id == 1
    del order
    gc.collect()
    async with maker.begin() as session:
        await session.execute(select(Order.id))
    assert watch.findings == []


def test_ignores_a_sync_sessionmaker(shop: Engine, watch: Watch) -> None:
    """There a refresh is only a query more."""
    with sessionmaker(shop)() as session:
        order = session.scalars(select(Order)).one()
        session.commit()
        assert order.status == "new"
    assert watch.findings == []


# -- autoflush ----------------------------------------------------------------------------------------------


def test_reports_a_query_that_misses_what_is_pending(shop: Engine, watch: Watch) -> None:
    """At the sessionmaker's line; the query and the add are evidence."""
    maker = sessionmaker(shop, autoflush=False)  # config-autoflush
    with maker() as session:
        session.add(Order())  # config-add
        session.scalars(select(Order)).all()  # config-query
        session.scalars(select(Order)).all()
        session.rollback()
    finding = only(watch, "config")
    assert finding.message == "a query for Order ran before pending changes of Order were flushed: autoflush is off"
    assert finding.line == line("config-autoflush")
    assert labels(finding) == ["queried", "added", "made"]
    assert evidence_line(finding, "queried") == line("config-query")
    assert evidence_line(finding, "added") == line("config-add")


async def test_reports_a_query_of_an_asyncio_session(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio, for a changed row."""
    maker = async_sessionmaker(async_shop, autoflush=False, expire_on_commit=False)  # config-async-autoflush
    async with maker() as session:
        order = (await session.scalars(select(Order))).one()
        order.status = "sent"
        await session.scalars(select(Order).where(Order.status == "sent"))
        await session.rollback()
    assert only(watch, "config").line == line("config-async-autoflush")


def test_reports_a_session_without_a_maker(shop: Engine, watch: Watch) -> None:
    """Session(engine, autoflush=False) is its own maker."""
    with Session(shop, autoflush=False) as session:  # config-session
        session.delete(session.scalars(select(Tag)).one())
        session.scalars(select(Tag)).all()
        session.rollback()
    assert only(watch, "config").line == line("config-session")


def test_ignores_no_autoflush(shop: Engine, watch: Watch) -> None:
    """A block that says so means it, also inside of another one and through a registry."""
    with Session(shop) as session:
        session.add(Order())
        with session.no_autoflush:
            session.scalars(select(Order)).all()
            with session.no_autoflush:
                session.scalars(select(Order)).all()
            session.scalars(select(Order)).all()
        session.rollback()
    assert watch.findings == []


def test_ignores_a_refresh_of_one_instance(shop: Engine, watch: Watch) -> None:
    """Its columns are read by its key: expired ones, deferred ones, and those that refresh() asks for."""
    with sessionmaker(shop, autoflush=False)() as session:
        order, tag = session.scalars(select(Order)).one(), session.scalars(select(Tag)).one()
        session.commit()
        session.add(Order())
        assert order.status == "new"
        assert order.notes == "ring twice"
        session.refresh(order)
        session.delete(tag)
        assert tag.name
        session.rollback()
    assert watch.findings == []


def test_ignores_queries_for_something_else(shop: Engine, watch: Watch) -> None:
    """Pending changes of one class do not matter to a query for another, nor do changes without an effect."""
    with sessionmaker(shop, autoflush=False)() as session:
        order = session.scalars(select(Order)).one()
        order.status = order.status
        session.add(Customer(name="Bob"))
        session.scalars(select(Order)).all()
        session.scalars(select(Tag)).all()
        session.flush()
        session.scalars(select(Customer)).all()
        session.rollback()
    assert watch.findings == []


# -- one static connection ----------------------------------------------------------------------------------


@pytest.fixture
def static(watch: Watch) -> Engine:
    """A database in memory with a function ``hold()`` that waits until it is let go."""
    arguments = {"check_same_thread": False}
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args=arguments)  # config-static
    event.listen(engine, "connect", lambda connection, record: connection.execute("PRAGMA foreign_keys=ON"))
    models.seed(engine)
    return engine


def test_reports_two_threads_on_one_connection(static: Engine, watch: Watch) -> None:
    """A statement begins while another thread's is still running."""
    running, asked = threading.Event(), threading.Event()

    def hold() -> int:
        running.set()
        return int(asked.wait(10))

    with static.connect() as connection:
        connection.connection.dbapi_connection.create_function("hold", 0, hold)  # type: ignore[union-attr]

    def first() -> None:
        with Session(static) as session:
            session.execute(select(func.hold()))  # config-first

    thread = threading.Thread(target=first, name="first")
    thread.start()
    assert running.wait(10)
    undo = watch.subscribe(lambda finding, new: asked.set())
    with Session(static) as session:
        session.scalars(select(Order.id)).all()  # config-second
    thread.join()
    undo()
    finding = only(watch, "config")
    assert finding.message == "two threads ran statements on the one connection of a StaticPool at the same time"
    assert finding.line == line("config-static")
    assert [item.thread for item in finding.evidence] == ["MainThread", "first", "MainThread"]
    assert evidence_line(finding, "shared") == line("config-second")


def test_ignores_threads_in_sequence(static: Engine, watch: Watch) -> None:
    """The documented recipe for tests in memory: a test's session stays open while a request's thread works."""
    with Session(static) as session:
        session.scalars(select(Order)).all()
        for _ in range(3):
            thread = threading.Thread(target=lambda: Session(static).scalars(select(Order)).all())
            thread.start()
            thread.join()
            session.scalars(select(Order)).all()
        session.rollback()
    gc.collect()
    assert [finding.rule for finding in watch.findings if finding.rule == "config"] == []


# -- how it is told -----------------------------------------------------------------------------------------


def test_exact_message(shop: Engine, watch: Watch) -> None:
    """The whole story of one setting."""
    maker = sessionmaker(shop, autoflush=False)  # config-exact
    with maker() as session:
        session.add(Order())  # config-exact-add
        session.scalars(select(Order)).all()  # config-exact-query
        session.rollback()
    here = "tests/rules/test_config.py"
    assert messages.render(only(watch, "config")) == (
        "config: a query for Order ran before pending changes of Order were flushed: autoflush is off\n"
        f"  queried  {here}:{line('config-exact-query')} in test_exact_message\n"
        f"  added    {here}:{line('config-exact-add')} in test_exact_message\n"
        f"  made     {here}:{line('config-exact')} in test_exact_message\n"
        "  fix: leave autoflush on; where a query must not flush, say so: with session.no_autoflush:\n"
        "  more: sessionwatch explain config"
    )


def test_an_inline_comment_allows_it(tmp_path: Path, watch: Watch) -> None:
    """On the line that makes the engine, with a reason."""
    engine = create_engine("sqlite://")  # sessionwatch: allow config -- rows without parents are wanted here
    models.seed(engine)
    assert watch.findings == []
    assert [finding.rule for finding in watch.allowed] == ["config"]


def test_strict_only_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is advice: strict mode raises nothing, and the pool is idle."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("strict", log=False) as watch:
        engine = file_engine(tmp_path)
        with Session(engine) as session:
            session.add(Tag(name="a"))
            session.commit()
        assert only(watch, "config").level == "log"
        assert is_idle(engine)


def test_strict_raise_stops_the_query(shop: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set to raise, a query that would miss something is not run, and the pool is idle afterwards."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("strict", log=False, rules={"config": "raise", "lost-writes": "off"}):
        with sessionmaker(shop, autoflush=False)() as session:
            session.add(Order())
            with pytest.raises(FindingError, match="a query for Order"):
                session.scalars(select(Order)).all()
            session.rollback()
        assert is_idle(shop)


def test_strict_raise_never_breaks_a_flush_or_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a write is under way nothing is raised: the finding waits for the report, and the row is stored."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("strict", log=False, rules={"config": "raise"}) as watch:
        engine = file_engine(tmp_path)
        with Session(engine) as session:
            session.add(Tag(name="a"))
            session.commit()
        with Session(engine) as session:
            assert session.scalars(select(Tag.name)).all() == ["a"]
        assert only(watch, "config").level == "raise"
        assert is_idle(engine)


@pytest.mark.parametrize("mode", ["log", "strict", "telemetry"])
def test_another_mode_for_a_while(tmp_path: Path, watch: Watch, mode: Any) -> None:
    """What was told of an engine is not told again in a block with another mode, and its line stays known."""
    engine, later = file_engine(tmp_path), create_engine(f"sqlite:///{tmp_path / 'config.db'}")  # config-later

    def write(engine: Engine) -> None:
        with Session(engine) as session:
            session.add(Order())
            session.commit()

    write(engine)
    with watch.switched(mode):
        write(engine)
    write(engine)
    write(later)
    assert [finding.count for finding in watch.findings] == [1, 1]
    assert [finding.line for finding in watch.findings] == [line("config-engine"), line("config-later")]


def test_uninstall_leaves_the_engine_alone(watch: Watch) -> None:
    """The static engine's dialect has its own methods again."""
    engine: Any = create_engine("sqlite://", poolclass=StaticPool)
    models.create(engine)
    assert "do_execute" in vars(engine.dialect)
    sessionwatch.uninstall()
    assert "do_execute" not in vars(engine.dialect)
