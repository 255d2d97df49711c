"""``lost-writes`` under asyncio: aiosqlite, asyncpg, psycopg, and aiomysql for savepoints."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker

from sessionwatch import FindingError
from sessionwatch.output import messages
from sessionwatch.watch.watch import Watch
from tests.rules.models import Item, Order, Tag, seed_async
from tests.rules.places import evidence_line, is_idle, labels, line, only

Run = Callable[[AsyncEngine], Awaitable[None]]


async def write(session: AsyncSession) -> None:
    session.add(Order())
    await session.flush()  # async-flush


# -- reported -----------------------------------------------------------------------------------------------


async def leave_with(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await write(session)


async def leave_maker(engine: AsyncEngine) -> None:
    async with async_sessionmaker(engine, expire_on_commit=False)() as session:
        await write(session)


async def close_in_finally(engine: AsyncEngine) -> None:
    session = AsyncSession(engine)
    try:
        await write(session)
    finally:
        await session.close()


async def reset(engine: AsyncEngine) -> None:
    session = AsyncSession(engine)
    await write(session)
    await session.reset()


async def invalidate(engine: AsyncEngine) -> None:
    session = AsyncSession(engine)
    await write(session)
    await session.invalidate()


async def aclosing(engine: AsyncEngine) -> None:
    session = AsyncSession(engine)
    await write(session)
    await session.aclose()


async def in_another_task(engine: AsyncEngine) -> None:
    session = AsyncSession(engine)
    await asyncio.create_task(write(session))
    await session.close()


async def remove_registry(engine: AsyncEngine) -> None:
    registry = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    await write(registry())
    await registry.remove()


async def run_sync(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await session.run_sync(lambda inner: inner.add(Order()))
        await session.run_sync(lambda inner: inner.flush())


ENDS: list[tuple[Run, str]] = [
    (leave_with, "closed"),
    (leave_maker, "closed"),
    (close_in_finally, "closed"),
    (reset, "reset"),
    (invalidate, "invalidated"),
    (aclosing, "closed"),
    (in_another_task, "closed"),
    (remove_registry, "closed"),
    (run_sync, "closed"),
]


@pytest.mark.parametrize(("run", "how"), ENDS, ids=[run.__name__ for run, _ in ENDS])
async def test_reports_each_way_to_end_an_async_session(
    async_shop: AsyncEngine, watch: Watch, run: Run, how: str
) -> None:
    """The place is the coroutine that ended the session, not the task or greenlet that did the closing."""
    await run(async_shop)
    finding = only(watch, "lost-writes")
    assert finding.message == f"1 Order object was written, but the session was {how} without a commit"
    assert finding.function == run.__name__
    assert labels(finding) == [how, "written", "opened"]


async def get_session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as session:  # dependency-with
        yield session


async def test_reports_an_async_generator_dependency(async_shop: AsyncEngine, watch: Watch) -> None:
    """The dependency's with block discards what the handler wrote."""
    async with contextlib.asynccontextmanager(get_session)(async_shop) as session:
        await write(session)
    finding = only(watch, "lost-writes")
    assert finding.line == line("dependency-with")
    assert evidence_line(finding, "written") == line("async-flush")


async def test_reports_an_async_generator_that_was_broken_off(async_shop: AsyncEngine, watch: Watch) -> None:
    """Closing the generator throws GeneratorExit through its block: the writes are lost all the same."""
    provider = get_session(async_shop)
    await write(await anext(provider))
    await provider.aclose()
    assert only(watch, "lost-writes").line == line("dependency-with")


@pytest.mark.filterwarnings("ignore:The garbage collector:sqlalchemy.exc.SAWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_reports_an_async_session_that_was_dropped(async_shop: AsyncEngine, watch: Watch) -> None:
    """A dropped AsyncSession loses its writes at the last of them."""

    async def forget() -> None:
        await write(AsyncSession(async_shop))

    await forget()
    gc.collect()
    finding = next(finding for finding in watch.findings if finding.rule == "lost-writes")
    assert finding.line == line("async-flush")
    assert "dropped and collected" in finding.message


async def test_reports_pending_objects(async_shop: AsyncEngine, watch: Watch) -> None:
    """Objects that never were flushed, new, dirty and deleted."""
    async with AsyncSession(async_shop) as session:
        session.add(Tag(name="late"))
        (await session.get_one(Order, 1)).status = "paid"
        await session.delete(await session.get_one(Item, 1))
        session.autoflush = False
    assert only(watch, "lost-writes").function == "test_reports_pending_objects"


STATEMENTS = [
    (insert(Item).values(name="washer"), "1 row of items was inserted"),
    (update(Item).where(Item.name == "nut").values(name="washer"), "1 row of items was updated"),
    (delete(Item).where(Item.name == "nut"), "1 row of items was deleted"),
    (text("INSERT INTO items (name) VALUES ('washer')"), "1 row of items was inserted"),
    (text("DELETE FROM items WHERE name = 'nut'"), "1 row of items was deleted"),
]


@pytest.mark.parametrize(("statement", "what"), STATEMENTS, ids=lambda value: value if isinstance(value, str) else "")
async def test_reports_statements(async_shop: AsyncEngine, watch: Watch, statement: object, what: str) -> None:
    """Statements are counted under asyncio as they are without."""
    async with AsyncSession(async_shop) as session:
        await session.execute(statement)  # type: ignore[call-overload]
    finding = only(watch, "lost-writes")
    known = what, what.replace("1 row", "rows").replace(" was ", " were ")  # some drivers don't say how many
    assert finding.message.partition(",")[0] in known


async def test_reports_savepoints(async_shop: AsyncEngine, watch: Watch) -> None:
    """A released savepoint is lost with its transaction; a rolled back one is not named."""
    async with AsyncSession(async_shop) as session:
        await mixed_savepoints(session)
    assert only(watch, "lost-writes").message == "1 Tag object was written, but the session was closed without a commit"


async def test_reports_savepoints_on_mariadb(async_mariadb_engine: AsyncEngine, watch: Watch) -> None:
    """The same with aiomysql."""
    await seed_async(async_mariadb_engine)
    async with AsyncSession(async_mariadb_engine) as session:
        await mixed_savepoints(session)
    assert only(watch, "lost-writes").message == "1 Tag object was written, but the session was closed without a commit"


async def mixed_savepoints(session: AsyncSession) -> None:
    savepoint = await session.begin_nested()
    session.add(Order())
    await session.flush()
    await savepoint.rollback()
    async with session.begin_nested():
        session.add(Tag(name="kept"))


# -- silent -------------------------------------------------------------------------------------------------


async def fail_in_with(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await write(session)
        raise KeyError("mine")


async def fail_in_finally(engine: AsyncEngine) -> None:
    session = AsyncSession(engine)
    try:
        await write(session)
        raise KeyError("mine")
    finally:
        await session.close()


async def fail_in_begin(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await write(session)
        raise KeyError("mine")


async def fail_in_maker_begin(engine: AsyncEngine) -> None:
    async with async_sessionmaker(engine).begin() as session:
        await write(session)
        raise KeyError("mine")


async def fail_in_dependency(engine: AsyncEngine) -> None:
    async with contextlib.asynccontextmanager(get_session)(engine) as session:
        await write(session)
        raise KeyError("mine")


async def fail_in_exit_stack(engine: AsyncEngine) -> None:
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(AsyncSession(engine))
        await write(session)
        raise KeyError("mine")


async def fail_in_registry(engine: AsyncEngine) -> None:
    registry = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    try:
        await write(registry())
        raise KeyError("mine")
    finally:
        await registry.remove()


FAILURES = [
    fail_in_with,
    fail_in_finally,
    fail_in_begin,
    fail_in_maker_begin,
    fail_in_dependency,
    fail_in_exit_stack,
    fail_in_registry,
]


@pytest.mark.parametrize("fail", FAILURES)
async def test_ignores_an_exception_on_its_way(async_shop: AsyncEngine, watch: Watch, fail: Run) -> None:
    """A failure rolls back, also where close() runs in a task of its own."""
    with pytest.raises(KeyError, match="mine"):
        await fail(async_shop)
    assert watch.findings == []
    assert is_idle(async_shop)


@pytest.mark.parametrize("fail", FAILURES)
async def test_strict_never_replaces_an_exception_on_its_way(async_shop: AsyncEngine, strict: Watch, fail: Run) -> None:
    """Whatever leaves the block is what arrives, and the pool is idle."""
    with pytest.raises(KeyError, match="mine"):
        await fail(async_shop)
    assert strict.findings == []
    assert is_idle(async_shop)


async def test_ignores_a_task_that_was_cancelled(async_shop: AsyncEngine, watch: Watch) -> None:
    """A cancellation is an exception on its way."""
    waiting = asyncio.Event()

    async def work() -> None:
        async with AsyncSession(async_shop) as session:
            await write(session)
            waiting.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert watch.findings == []


async def test_ignores_commits_rollbacks_and_reads(async_shop: AsyncEngine, watch: Watch) -> None:
    """The right ways to end a transaction."""
    async with AsyncSession(async_shop) as session:
        await write(session)
        await session.commit()
    async with AsyncSession(async_shop) as session:
        await write(session)
        await session.rollback()
    async with AsyncSession(async_shop) as session, session.begin():
        await write(session)
    async with async_sessionmaker(async_shop).begin() as session:
        await write(session)
    async with AsyncSession(async_shop) as session:
        (await session.scalars(select(Order).with_for_update())).all()
    assert watch.findings == []


@pytest.mark.parametrize("mode", ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"])
async def test_ignores_a_session_joined_to_an_outer_transaction(
    async_shop: AsyncEngine, watch: Watch, mode: str
) -> None:
    """The test suite's recipe with an AsyncConnection."""
    async with async_shop.connect() as connection:
        await connection.begin()
        async with AsyncSession(bind=connection, join_transaction_mode=mode) as session:  # type: ignore[arg-type]
            await write(session)
            session.add(Tag(name="pending"))
        await connection.rollback()
    assert watch.findings == []


async def test_ignores_autocommit(async_shop: AsyncEngine, watch: Watch) -> None:
    """Under AUTOCOMMIT every statement is kept."""
    async with AsyncSession(async_shop.execution_options(isolation_level="AUTOCOMMIT")) as session:
        await write(session)
    assert watch.findings == []


# -- message and strict mode ----------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [run for run, _ in ENDS])
async def test_strict_raises_after_everything_was_released(async_shop: AsyncEngine, strict: Watch, run: Run) -> None:
    """The error reaches the coroutine that ended the session, and the pool is idle."""
    with pytest.raises(FindingError, match="1 Order object was written") as raised:
        await run(async_shop)
    assert raised.value.finding is only(strict, "lost-writes")
    assert is_idle(async_shop)


async def test_message_word_for_word(async_shop: AsyncEngine, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fix is an async one, and the tasks are named."""
    monkeypatch.chdir(Path(__file__).parent)
    task = asyncio.current_task()
    assert task is not None
    task.set_name("checkout")
    async with AsyncSession(async_shop) as session:  # async-story-open
        session.add(Order())
        await session.flush()  # async-story-flush
    label = session.sync_session.__dict__["_sessionwatch"].label
    here, flush = "test_message_word_for_word", line("async-story-flush")
    assert messages.render(only(watch, "lost-writes")) == textwrap.dedent(f"""\
        lost-writes: 1 Order object was written, but the session was closed without a commit
          closed   test_lost_writes_asyncio.py:{line("async-story-open")} in {here}     session {label}, task checkout
          written  test_lost_writes_asyncio.py:{flush} in {here}     1 Order object written, task checkout
          opened   test_lost_writes_asyncio.py:{line("async-story-open")} in {here}     session {label}, task checkout
          fix: commit before the session ends: await session.commit(), or
               `async with AsyncSession(engine) as session, session.begin():`;
               to discard on purpose: await session.rollback()
          more: sessionwatch explain lost-writes""")
