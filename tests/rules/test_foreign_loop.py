"""``foreign-loop``: pooled connections that were opened on one event loop and fail on another one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import URL, NullPool, create_engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from sessionwatch import uninstall, watching
from sessionwatch.model import Mode
from sessionwatch.output.messages import render
from sessionwatch.watch.watch import Watch
from tests.rules.models import Order, seed
from tests.rules.places import alone, evidence_line, labels, line, only

RULE = "foreign-loop"
Make = Callable[..., AsyncEngine]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Only this rule is on; our own errors raise."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("log", log=False, rules=alone(RULE)) as installed:
        yield installed


@pytest.fixture(params=[pytest.param("asyncpg", marks=pytest.mark.postgresql)])
def url(request: pytest.FixtureRequest, postgres_url: URL) -> URL:
    """A database whose driver depends on the loop."""
    return postgres_url.set(drivername="postgresql+asyncpg")


async def read(engine: AsyncEngine) -> Any:
    async with AsyncSession(engine) as session:
        return await session.scalar(text("SELECT 42"))  # read


def attempt(engine: AsyncEngine, work: Callable[[AsyncEngine], Any] = read) -> BaseException | None:
    """Run once on a loop of its own; returns how it failed."""
    try:
        asyncio.run(work(engine))
    except (RuntimeError, DBAPIError) as error:
        return error
    return None


def notes(error: BaseException | None) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


def test_reports_a_second_loop(watch: Watch, url: URL) -> None:
    """asyncio.run() twice with one engine: the second one's error has the story."""
    engine = create_async_engine(url)
    assert attempt(engine) is None
    error = attempt(engine)
    found = only(watch, RULE)
    assert found.line == evidence_line(found, "used") == line("read")
    assert labels(found) == ["used", "connected", "opened"]
    assert render(found) in notes(error)


def test_reports_each_use(watch: Watch, url: URL) -> None:
    """A connection that stays in the pool fails again, and each error has the story."""
    engine = create_async_engine(url)
    errors = [attempt(engine) for _ in range(3)]
    assert [RULE in notes(error) for error in errors[1:]] == [True, True]
    assert only(watch, RULE).count == 2


def test_reports_a_ping(watch: Watch, url: URL) -> None:
    """With pool_pre_ping the driver fails before there is a connection."""
    engine = create_async_engine(url, pool_pre_ping=True)
    errors = [attempt(engine) for _ in range(2)]
    assert RULE in notes(errors[1])
    assert only(watch, RULE).message.startswith("a connection failed")


def test_reports_a_core_connection(watch: Watch, url: URL) -> None:
    """A connection without a session is one of the engine's."""

    async def work(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 42"))

    engine = create_async_engine(url)
    assert [RULE in notes(attempt(engine, work)) for _ in range(2)] == [False, True]
    assert only(watch, RULE).subject == "engine"


def test_reports_a_session_that_changes_the_loop(watch: Watch, url: URL) -> None:
    """A session that holds a connection while its loop ends fails on the next one."""
    engine = create_async_engine(url)
    session = AsyncSession(engine)
    loops = [asyncio.new_event_loop() for _ in range(2)]
    loops[0].run_until_complete(session.execute(text("SELECT 42")))
    with pytest.raises((RuntimeError, DBAPIError)):
        loops[1].run_until_complete(session.execute(text("SELECT 42")))
    found = only(watch, RULE)
    assert "has been closed" not in found.message
    with suppress(DBAPIError):  # the driver still believes in an operation
        loops[0].run_until_complete(session.close())
    for loop in loops:
        loop.close()


@pytest.mark.parametrize("mode", ["strict", "telemetry"])
def test_reports_in_every_mode(mode: Mode, monkeypatch: pytest.MonkeyPatch, url: URL) -> None:
    """In strict mode the driver's error stays what it is, with the story; telemetry counts it."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching(mode, log=False, rules=alone(RULE, "raise" if mode == "strict" else "log")) as watch:
        engine = create_async_engine(url)
        errors = [attempt(engine) for _ in range(2)]
        assert type(errors[1]) is RuntimeError
        assert RULE in notes(errors[1])
        assert only(watch, RULE).severity == "fault"


@pytest.mark.mariadb
def test_reports_under_aiomysql(watch: Watch, mariadb_url: URL) -> None:
    """aiomysql's streams belong to a loop, too."""
    engine = create_async_engine(mariadb_url.set(drivername="mariadb+aiomysql"))
    assert [RULE in notes(attempt(engine)) for _ in range(2)] == [False, True]


def test_exact_message(watch: Watch, url: URL) -> None:
    """The whole story, word for word."""
    engine = create_async_engine(url)
    for _ in range(2):
        attempt(engine)
    found = only(watch, RULE)
    assert (
        found.message == "SELECT failed because its connection was opened on another event loop, which has been closed"
    )
    assert found.fix == (
        "dispose of the engine before its event loop ends: await engine.dispose()\n"
        "or keep no connection: create_async_engine(url, poolclass=NullPool)\n"
        "in tests, one loop for all of them: asyncio_default_fixture_loop_scope = session"
    )


async def disposing(engine: AsyncEngine) -> None:
    await read(engine)
    await engine.dispose()


FIXED: dict[str, Callable[[URL], list[BaseException | None]]] = {
    "dispose": lambda url: [attempt(engine, disposing) for engine in [create_async_engine(url)] for _ in range(3)],
    "NullPool": lambda url: [
        attempt(engine) for engine in [create_async_engine(url, poolclass=NullPool)] for _ in range(3)
    ],
    "an engine each": lambda url: [attempt(create_async_engine(url)) for _ in range(3)],
    "psycopg": lambda url: [
        attempt(engine) for engine in [create_async_engine(url.set(drivername="postgresql+psycopg"))] for _ in range(3)
    ],
}


@pytest.mark.parametrize("how", FIXED)
def test_ignores_what_works(how: str, watch: Watch, url: URL) -> None:
    """The printed fixes, an engine for each loop, and drivers that do not depend on the loop."""
    assert FIXED[how](url) == [None, None, None]
    assert watch.findings == []


def test_ignores_aiosqlite(watch: Watch, tmp_path: Any) -> None:
    """aiosqlite works on any loop, and its own errors are no story of loops."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db")
    assert [attempt(engine) for _ in range(3)] == [None, None, None]

    async def wrong(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT * FROM no_such_table"))

    assert attempt(engine, wrong) is not None
    assert watch.findings == []


def test_ignores_another_error_on_another_loop(watch: Watch, url: URL) -> None:
    """psycopg reports a missing table on whatever loop; that is not the loop's fault."""
    engine = create_async_engine(url.set(drivername="postgresql+psycopg"))

    async def wrong(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT * FROM no_such_table"))

    assert attempt(engine) is None
    assert attempt(engine, wrong) is not None
    assert watch.findings == []


async def test_ignores_two_at_once_on_one_loop(watch: Watch, url: URL) -> None:
    """One session in gather() on one loop is another rule's: "another operation is in progress"."""
    engine = create_async_engine(url)
    session = AsyncSession(engine)
    await session.execute(text("SELECT 42"))
    connection = await session.connection()
    raw = (await connection.get_raw_connection()).driver_connection
    asleep = asyncio.ensure_future(raw.execute("SELECT pg_sleep(0.2)"))  # type: ignore[union-attr]
    await asyncio.sleep(0)
    with pytest.raises(DBAPIError, match="another operation is in progress"):
        await session.execute(text("SELECT 42"))
    await asleep
    await session.close()
    await engine.dispose()
    assert watch.findings == []


def test_ignores_a_session_without_a_connection(watch: Watch, url: URL) -> None:
    """A session that holds no connection may change the loop, where the engine keeps none."""
    engine = create_async_engine(url, poolclass=NullPool)
    session = AsyncSession(engine)
    for _ in range(2):

        async def work() -> None:
            await session.execute(text("SELECT 42"))
            await session.commit()

        asyncio.run(work())
    assert watch.findings == []


def test_ignores_sync_engines(watch: Watch, postgres_url: URL) -> None:
    """A sync driver has no loop, also where one runs around it."""
    engine = create_engine(postgres_url)
    seed(engine)

    async def work() -> int:
        with engine.connect() as connection:
            return len(connection.execute(select(Order)).all())

    assert [asyncio.run(work()) for _ in range(2)] == [1, 1]
    assert watch.findings == []


def test_ignores_threads_with_an_engine_each(watch: Watch, url: URL) -> None:
    """Two threads, two loops, two engines."""
    errors: list[BaseException | None] = []
    threads = [threading.Thread(target=lambda: errors.append(attempt(create_async_engine(url)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [None, None]
    assert watch.findings == []


def test_strict_leaves_the_pool_idle(monkeypatch: pytest.MonkeyPatch, url: URL) -> None:
    """The driver's error is what is raised, and no connection stays checked out."""
    uninstall()
    with watching("strict", log=False, rules=alone(RULE, "raise")) as watch:
        engine = create_async_engine(url)
        for _ in range(2):
            attempt(engine)
        assert [finding.rule for finding in watch.findings] == [RULE]
        assert engine.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
