"""asyncio to the bone: everything that it does with a session, done wrong and done right, under every rule.

Each program is a coroutine function with an engine on a database of one customer, one order and its two items. It
runs on asyncio's own loop and on uvloop's; a faulty one is reported by exactly the rules that it names, at its line
with the mark ``# here``; a right one by none.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncAttrs,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, selectinload

from sessionwatch import Finding, rules, unit_of_work, watching
from sessionwatch.model import Level
from tests.backends import SYNC
from tests.models import Base
from tests.rules.models import Item, Order, create, rows

Main = Callable[[AsyncEngine], Coroutine[Any, Any, None]]
EVERYTHING: dict[str, Level] = {rule.slug: "log" for rule in rules.ALL}
FAULTY: list[Any] = []
RIGHT: list[Any] = []


def faulty(*slugs: str) -> Callable[[Main], Main]:
    """A program that these rules report, and no other."""

    def add(main: Main) -> Main:
        FAULTY.append(pytest.param(main, sorted(slugs), id=main.__name__))
        return main

    return add


def right(main: Main) -> Main:
    """A program that no rule reports."""
    RIGHT.append(pytest.param(main, id=main.__name__))
    return main


# -- gather -------------------------------------------------------------------------------------------------


@faulty("cross-task")
async def gather_on_one_session(engine: AsyncEngine) -> None:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        await session.connection()
        work = [session.scalars(select(model)) for model in (Order, Item)]
        await asyncio.gather(*work, return_exceptions=True)  # here


@right
async def gather_of_sessions(engine: AsyncEngine) -> None:
    maker = async_sessionmaker(engine, expire_on_commit=False)

    async def read(model: type[Base]) -> int:
        async with maker() as session:
            return len((await session.scalars(select(model))).all())

    assert await asyncio.gather(read(Order), read(Item)) == [1, 2]


# -- cancelled tasks ----------------------------------------------------------------------------------------


@faulty("lost-writes")
async def cancelled_and_swallowed(engine: AsyncEngine) -> None:
    """The task goes on after its cancellation as though nothing had happened, without its commit."""
    flushed = asyncio.Event()

    async def job() -> None:
        async with AsyncSession(engine) as session:  # here
            session.add(Order(status="paid"))
            with contextlib.suppress(asyncio.CancelledError):
                await session.flush()
                flushed.set()
                await asyncio.Event().wait()
                await session.commit()

    task = asyncio.create_task(job())
    await flushed.wait()
    task.cancel()
    await task


@right
async def cancelled(engine: AsyncEngine) -> None:
    """Before a statement, inside of one, and between two; the cancellation leaves the block."""
    for steps in range(12):
        task = asyncio.create_task(write(engine))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def write(engine: AsyncEngine) -> None:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        session.add(Order(status="paid"))
        await session.flush()
        await session.scalars(select(Item))
        await session.commit()


# -- timeouts -----------------------------------------------------------------------------------------------


@faulty("lost-writes")
async def timeout_and_no_commit(engine: AsyncEngine) -> None:
    """The second part took too long, and the first one is lost with it."""
    async with AsyncSession(engine) as session:  # here
        session.add(Order(status="paid"))
        await session.flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
                await session.commit()


@right
async def timeout_around_a_statement(engine: AsyncEngine) -> None:
    """Then rolled back, or closed."""
    for end in (AsyncSession.rollback, AsyncSession.close):
        session = AsyncSession(engine)
        await session.connection()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await session.scalars(select(Order))
        await end(session)
        await session.close()


@right
async def timeout_around_a_session(engine: AsyncEngine) -> None:
    """The time is up while the session holds writes; the exception leaves the block."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0), AsyncSession(engine) as session:
            session.add(Order(status="paid"))
            await session.flush()
            await session.commit()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(write(engine), 0.000001)


# -- task groups --------------------------------------------------------------------------------------------


@faulty("cross-task")
async def task_group_on_one_session(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await session.connection()

        async def read(model: type[Base]) -> None:
            with contextlib.suppress(SQLAlchemyError):
                await session.scalars(select(model))  # here

        async with asyncio.TaskGroup() as group:
            group.create_task(read(Order))
            group.create_task(read(Item))


@right
async def task_group_of_sessions(engine: AsyncEngine) -> None:
    """One of them fails: the others are cancelled, with their sessions open."""

    async def fail() -> None:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            await session.scalars(select(Order))
            raise LookupError

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(write(engine))
            group.create_task(fail())


# -- generators that the loop finalises ---------------------------------------------------------------------


async def provided(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session


@faulty("lost-writes")
async def generator_broken_off(engine: AsyncEngine) -> None:
    """The generator is garbage, so that the loop closes it, and its session, in a task of its own."""

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as session:  # here
            yield session

    async for session in get_session():
        session.add(Order(status="paid"))
        await session.flush()
        break
    del session
    await finalised()


@faulty("use-after-close")
async def generator_returned_from(engine: AsyncEngine) -> None:
    """Its session is closed by the loop, and used afterwards."""

    async def opened() -> AsyncSession:
        async for session in provided(engine):
            return session
        raise AssertionError

    session = await opened()
    await finalised()
    await session.scalars(select(Order))  # here
    await session.close()


@right
async def generator_with_a_commit(engine: AsyncEngine) -> None:
    """Broken off after its commit; and closed as it should be."""
    async for session in provided(engine):
        session.add(Order(status="paid"))
        await session.commit()
        break
    del session
    await finalised()
    async with contextlib.aclosing(provided(engine)) as sessions:
        async for session in sessions:
            assert (await session.scalars(select(Order))).first()
            break


async def finalised() -> None:
    """Until the loop has closed the generators that are garbage."""
    gc.collect()
    await asyncio.sleep(0)  # it makes the tasks that close them
    while closing := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(closing)


# -- run_sync -----------------------------------------------------------------------------------------------


@faulty("implicit-io")
async def read_outside_of_run_sync(engine: AsyncEngine) -> None:
    """Loaded inside, and read outside."""
    async with AsyncSession(engine) as session:
        order = await session.run_sync(lambda sync: sync.scalars(select(Order)).one())
        with contextlib.suppress(SQLAlchemyError):
            order.items  # noqa: B018 # here


@faulty("blocking-io")
async def sync_session_in_a_coroutine(engine: AsyncEngine) -> None:
    with Session(BESIDE.get()) as session:
        session.scalars(select(Order)).all()  # here


@right
async def run_sync(engine: AsyncEngine) -> None:
    """Loads, writes and a session of its own inside; and a thread for what is not asyncio."""

    def ship(session: Session) -> int:
        order = session.scalars(select(Order)).first()
        assert order is not None
        order.status = "shipped"
        return len(order.items)

    async with AsyncSession(engine, expire_on_commit=False) as session:
        assert await session.run_sync(ship) == 2
        await session.commit()
    async with engine.connect() as connection:
        assert await connection.run_sync(lambda sync: Session(sync).scalars(select(Item)).all())

    def beside(sync: Engine) -> None:
        with Session(sync) as session:
            session.scalars(select(Order)).all()

    await asyncio.to_thread(beside, BESIDE.get())


# -- AsyncAttrs ---------------------------------------------------------------------------------------------


class Lazy(AsyncAttrs):
    """``awaitable_attrs`` for instances of any model."""


def awaitable(instance: Any) -> Any:
    return Lazy.awaitable_attrs.fget(instance)  # type: ignore[attr-defined]


@faulty("implicit-io")
async def attribute_without_await(engine: AsyncEngine) -> None:
    """What a commit expired is read, where ``awaitable_attrs`` is at hand."""
    async with AsyncSession(engine) as session:
        order = (await session.scalars(select(Order))).one()
        await session.commit()
        with contextlib.suppress(SQLAlchemyError):
            order.status  # noqa: B018 # here


@faulty("n-plus-one")
async def awaited_one_by_one(engine: AsyncEngine) -> None:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        session.add_all([Order() for _ in range(5)])
        await session.commit()
        session.expunge_all()
        for order in await session.scalars(select(Order)):
            await awaitable(order).items  # here


@right
async def awaitable_attributes(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        order = (await session.scalars(select(Order))).one()
        await session.commit()
        assert await awaitable(order).status
        assert len(await awaitable(order).items) == 2


# -- streaming ----------------------------------------------------------------------------------------------


@faulty("lost-writes")
async def stream_broken_off(engine: AsyncEngine) -> None:
    """Out of the middle of a stream, past the commit."""
    async with AsyncSession(engine) as session:  # here
        session.add(Order(status="paid"))
        await session.flush()
        async for _ in await session.stream_scalars(select(Item)):
            return
        await session.commit()


@faulty("implicit-io")
async def stream_of_parents(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        async for order in await session.stream_scalars(select(Order)):
            with contextlib.suppress(SQLAlchemyError):
                order.items  # noqa: B018 # here


@right
async def streams(engine: AsyncEngine) -> None:
    """To the end, broken off and closed, broken off with the session; with what is eagerly loaded."""
    statement = select(Order).options(selectinload(Order.items))
    async with AsyncSession(engine) as session:
        async for order in await session.stream_scalars(statement):
            assert order.items
        result = await session.stream_scalars(select(Item))
        async for _ in result:
            break
        await result.close()
        async for _ in await session.stream_scalars(select(Item)):
            break


# -- registries ---------------------------------------------------------------------------------------------


def registry(engine: AsyncEngine) -> async_scoped_session[AsyncSession]:
    maker = async_sessionmaker(engine, expire_on_commit=False)
    return async_scoped_session(maker, scopefunc=asyncio.current_task)


@faulty("lost-writes")
async def registry_removed_without_a_commit(engine: AsyncEngine) -> None:
    sessions = registry(engine)
    sessions.add(Order(status="paid"))
    await sessions.flush()
    await sessions.remove()  # here


@faulty("cross-task")
async def registry_of_one_scope(engine: AsyncEngine) -> None:
    """A registry whose scope is not the task."""
    maker = async_sessionmaker(engine, expire_on_commit=False)
    sessions = async_scoped_session(maker, scopefunc=lambda: "everybody")
    await sessions.connection()
    work = [sessions.scalars(select(model)) for model in (Order, Item)]
    await asyncio.gather(*work, return_exceptions=True)  # here
    await sessions.remove()


@right
async def registries(engine: AsyncEngine) -> None:
    sessions = registry(engine)

    async def work() -> None:
        assert (await sessions.scalars(select(Order))).all()
        await sessions.remove()

    await asyncio.gather(*(work() for _ in range(3)))
    sessions.add(Order(status="paid"))
    await sessions.commit()
    await sessions.remove()


# -- closing in a task of its own ---------------------------------------------------------------------------


@faulty("lost-writes")
async def closed_by_the_block(engine: AsyncEngine) -> None:
    """``AsyncSession.__aexit__`` closes in another task: the place is the block's, not that task's."""
    async with AsyncSession(engine) as session:  # here
        session.add(Order(status="paid"))
        await session.flush()


@faulty("swallowed-error")
async def closed_after_an_error(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        session.add(Order(id=1))
        with contextlib.suppress(Exception):
            await session.commit()  # here


@right
async def closed_with_an_exception(engine: AsyncEngine) -> None:
    """What leaves the block is known in the task that closes, also inside of an ``except`` block."""
    for _ in range(2):
        with contextlib.suppress(LookupError):
            async with AsyncSession(engine) as session:
                session.add(Order(status="paid"))
                await session.flush()
                raise LookupError
        try:
            raise KeyError
        except KeyError:
            async with AsyncSession(engine) as session:
                session.add(Order(status="paid"))
                await session.commit()


# -- what outlives a request --------------------------------------------------------------------------------


@faulty("use-after-close")
async def task_that_outlives_its_request(engine: AsyncEngine) -> None:
    """It got the request's session."""
    ended = asyncio.Event()

    async def later(session: AsyncSession) -> None:
        await ended.wait()
        await session.scalars(select(Order))  # here
        await session.close()

    with unit_of_work("GET /orders"):
        async with AsyncSession(engine) as session:
            await session.scalars(select(Order))
            task = asyncio.create_task(later(session))
    ended.set()
    await task


@faulty("session-leak")
async def session_that_outlives_its_request(engine: AsyncEngine) -> None:
    """Nobody has closed it when the request ends."""
    with unit_of_work("GET /orders"):
        session = AsyncSession(engine)  # here
        await session.scalars(select(Order))
    await session.close()


@right
async def task_with_a_session_of_its_own(engine: AsyncEngine) -> None:
    """Begun in the request, at work after its end."""
    ended = asyncio.Event()

    async def later() -> None:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            await session.scalars(select(Order))
            await ended.wait()
            session.add(Order(status="paid"))
            await session.commit()

    with unit_of_work("POST /orders"):
        task = asyncio.create_task(later())
        async with AsyncSession(engine) as session:
            await session.scalars(select(Order))
    ended.set()
    await task


# -- all of them --------------------------------------------------------------------------------------------

DATABASES = [backend for backend in SYNC if backend.values != ("sqlite-memory",)]  # that has one connection only
DEADLINE = 60  # seconds; reached only when a program hangs
BESIDE: contextvars.ContextVar[Engine] = contextvars.ContextVar("BESIDE")  # a sync engine on the same database


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """How a loop is made."""
    module = pytest.importorskip("uvloop") if request.param == "uvloop" else asyncio
    make: Callable[[], asyncio.AbstractEventLoop] = module.new_event_loop
    return make


@pytest.mark.parametrize("engine", DATABASES, indirect=True)
@pytest.mark.parametrize(("main", "slugs"), FAULTY)
def test_reports(
    main: Main,
    slugs: list[str],
    engine: Engine,
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exactly what is wrong, at its line."""
    findings = found(main, engine, loop_factory, monkeypatch)
    assert sorted({finding.rule for finding in findings}) == slugs, [finding.message for finding in findings]
    assert [finding.line for finding in findings] == [marked(main)]
    assert findings[0].path == Path(__file__).relative_to(Path.cwd()).as_posix()


@pytest.mark.parametrize("engine", DATABASES, indirect=True)
@pytest.mark.parametrize("main", RIGHT)
def test_ignores(
    main: Main,
    engine: Engine,
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is right, however unusual."""
    assert [finding.message for finding in found(main, engine, loop_factory, monkeypatch)] == []


def test_each_chapter_has_both_kinds() -> None:
    """At least one program that is reported and one that is not for everything that asyncio does."""
    source = Path(__file__).read_text(encoding="utf-8")
    chapters = source.split("\n# -- ")[1:-1]
    assert len(chapters) == 11
    assert [
        chapter.splitlines()[0] for chapter in chapters if not ("\n@faulty(" in chapter and "\n@right\n" in chapter)
    ] == []


def found(
    main: Main,
    engine: Engine,
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    monkeypatch: pytest.MonkeyPatch,
) -> list[Finding]:
    """What a program is reported for, with every rule on, on a loop of its own."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    create(engine)
    with Session(engine) as session:
        session.add_all(rows())
        session.commit()
    BESIDE.set(engine)

    async def run() -> None:
        driver = "sqlite+aiosqlite" if engine.dialect.name == "sqlite" else "postgresql+asyncpg"
        made = create_async_engine(engine.url.set(drivername=driver))
        event.listen(made.sync_engine, "connect", enforce)
        try:
            async with asyncio.timeout(DEADLINE):
                await main(made)
        finally:
            await made.dispose()

    with watching("log", log=False, rules=EVERYTHING) as watch, asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())
        gc.collect()
    return watch.findings


def enforce(connection: Any, record: object) -> None:
    if "sqlite" in type(connection).__module__:
        connection.execute("PRAGMA foreign_keys=ON")


def marked(main: Main) -> int:
    """The line of a program that is marked."""
    lines, first = inspect.getsourcelines(main)
    return first + next(number for number, line in enumerate(lines) if line.endswith("# here\n"))
