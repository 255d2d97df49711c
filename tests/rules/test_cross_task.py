"""``cross-task``: two threads or two asyncio tasks inside of one session at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from greenlet import greenlet
from sqlalchemy import Connection, Engine, event, select, text
from sqlalchemy.exc import IllegalStateChangeError, InterfaceError, InvalidRequestError, MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from sessionwatch import FindingError, allow
from sessionwatch.output import messages
from sessionwatch.watch.watch import Watch
from tests.rules.models import Customer, Item, Order
from tests.rules.places import evidence_line, is_idle, labels, line, only

DEADLINE = 30  # seconds; reached only when a test hangs


@contextlib.contextmanager
def held(engine: Engine, function: Callable[[], object], name: str = "worker") -> Iterator[None]:
    """For the length of the block, ``function`` runs in a thread and waits inside of its first statement."""
    entered, leave = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        if threading.current_thread() is thread and not entered.is_set():
            entered.set()
            assert leave.wait(DEADLINE)

    thread = threading.Thread(target=function, name=name)
    event.listen(engine, "before_cursor_execute", hold)
    thread.start()
    try:
        assert entered.wait(DEADLINE)
        yield
    finally:
        leave.set()
        thread.join(DEADLINE)
        event.remove(engine, "before_cursor_execute", hold)


@contextlib.asynccontextmanager
async def async_held(engine: AsyncEngine, session: AsyncSession, work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """For the length of the block, a task runs ``work`` and waits inside of its first statement."""
    await session.connection()
    entered, leave = asyncio.Event(), asyncio.Event()

    def hold(*_: object) -> None:
        if not entered.is_set():
            entered.set()
            await_only(leave.wait())

    event.listen(engine.sync_engine, "before_cursor_execute", hold)
    task = asyncio.create_task(work)
    try:
        await entered.wait()
        yield
    finally:
        leave.set()
        await asyncio.wait([task])
        event.remove(engine.sync_engine, "before_cursor_execute", hold)
        task.cancelled() or task.exception()  # what a race does to the first one is the driver's affair


def read(session: Session) -> object:
    return session.execute(text("SELECT count(*) FROM orders")).all()  # thread-read


async def load(session: AsyncSession, model: Any = Order) -> object:
    return (await session.scalars(select(model))).all()  # task-load


# -- reported: threads --------------------------------------------------------------------------------------


def test_reports_two_threads(shop: Engine, watch: Watch) -> None:
    """The second one in is the primary place; the first one is shown where it is, and where it was started."""
    session = Session(shop)
    session.connection()
    with held(shop, lambda: read(session)):
        session.execute(text("SELECT count(*) FROM items"))  # main-second
    session.close()
    finding = only(watch, "cross-task")
    assert (
        finding.message == "thread MainThread ran SELECT items in a session while thread worker was still inside of it"
    )
    assert finding.line == line("main-second")
    assert evidence_line(finding, "first") == line("thread-read")
    assert labels(finding) == ["second", "first", "created", "opened"]


def commit(session: Session) -> None:
    session.commit()


def close(session: Session) -> None:
    session.close()


def flush(session: Session) -> None:
    session.add(Order())
    session.flush()


@pytest.mark.parametrize("use", [commit, close, flush, read])
def test_reports_each_way_in(shop: Engine, watch: Watch, use: Callable[[Session], None]) -> None:
    """A commit, a close, a flush and a query, each while another thread's statement is being run."""
    session = Session(shop)
    session.connection()
    with held(shop, lambda: safely(read, session)):
        safely(use, session)
    session.rollback()
    session.close()
    finding = only(watch, "cross-task")
    assert finding.function == use.__name__
    assert evidence_line(finding, "first") == line("thread-read")


def safely(function: Callable[[Session], object], session: Session) -> None:
    with contextlib.suppress(Exception):  # what a race does to a connection is the driver's affair
        function(session)


def test_reports_a_thread_in_a_tasks_session(shop: Engine, watch: Watch) -> None:
    """A sync session handed to a worker thread while the loop goes on using it."""

    async def main() -> None:
        session.connection()
        with held(shop, lambda: read(session)):
            read(session)

    session = Session(shop)
    asyncio.run(main())
    session.close()
    finding = next(found for found in watch.findings if found.rule == "cross-task")
    assert "task Task-" in finding.message
    assert "while thread worker was still inside" in finding.message


# -- reported: tasks ----------------------------------------------------------------------------------------


async def test_reports_gather(async_shop: AsyncEngine, watch: Watch) -> None:
    """Tasks of one gather() share a session: reported also where neither SQLAlchemy nor the driver refuses."""
    async with AsyncSession(async_shop) as session:
        await session.connection()
        await asyncio.gather(load(session), load(session, Item), return_exceptions=True)
    finding = only(watch, "cross-task")
    assert finding.line == line("task-load")
    assert labels(finding) == ["second", "created", "first", "created", "opened"]
    assert evidence_line(finding, "first") == line("task-load")
    assert evidence_line(finding, "created") == load.__code__.co_firstlineno
    assert {item.task for item in finding.evidence[:2]} != {item.task for item in finding.evidence[2:4]}


async def test_reports_what_sqlalchemy_refuses(async_shop: AsyncEngine, watch: Watch) -> None:
    """While the connection is being taken SQLAlchemy refuses; its error gets the story."""
    await async_shop.dispose()  # connecting takes a while
    async with AsyncSession(async_shop) as session:
        outcomes = await asyncio.gather(load(session), load(session, Item), return_exceptions=True)
    (refused,) = [outcome for outcome in outcomes if isinstance(outcome, InvalidRequestError)]
    finding = only(watch, "cross-task")
    assert refused.__notes__ == [messages.render(finding)]
    assert finding.line == line("task-load")
    assert evidence_line(finding, "first") == line("task-load")


async def test_reports_illegal_state_change(async_shop: AsyncEngine, watch: Watch) -> None:
    """A session closed while another task takes its connection: the IllegalStateChangeError gets the story."""
    await async_shop.dispose()
    session = AsyncSession(async_shop)
    task = asyncio.create_task(load(session))
    await asyncio.sleep(0)
    with pytest.raises(IllegalStateChangeError) as raised:
        await session.close()
    await task
    await session.close()
    assert raised.value.__notes__ == [messages.render(only(watch, "cross-task"))]


@pytest.mark.parametrize("async_engine", ["asyncpg"], indirect=True)
async def test_reports_what_the_driver_refuses(async_shop: AsyncEngine, watch: Watch) -> None:
    """asyncpg's "another operation is in progress" gets the story."""
    session = AsyncSession(async_shop)
    await load(session)
    task = asyncio.create_task(load(session))
    await asyncio.sleep(0)
    with pytest.raises(InterfaceError, match="another operation is in progress") as raised:
        await session.rollback()
    await asyncio.wait([task])
    await session.close()
    assert raised.value.__notes__ == [messages.render(only(watch, "cross-task"))]


async def test_reports_a_task_group(async_shop: AsyncEngine, watch: Watch) -> None:
    """A task group is no different from gather()."""
    async with AsyncSession(async_shop) as session:
        await session.connection()
        with contextlib.suppress(Exception):
            async with asyncio.TaskGroup() as group:
                for model in (Order, Item, Customer):
                    group.create_task(load(session, model))
    assert "was still inside of it" in only(watch, "cross-task").message


async def test_reports_a_close_under_a_running_statement(async_shop: AsyncEngine, watch: Watch) -> None:
    """A shielded statement goes on while its block is left: the close is the second one in."""
    async with contextlib.AsyncExitStack() as stack:
        with contextlib.suppress(Exception):
            async with AsyncSession(async_shop) as session:  # left-early
                await stack.enter_async_context(async_held(async_shop, session, load(session)))
    finding = only(watch, "cross-task")
    assert "closed a session while task" in finding.message
    assert finding.line == line("left-early")
    assert evidence_line(finding, "first") == line("task-load")


async def test_reports_a_generator_that_ends_under_a_running_statement(async_shop: AsyncEngine, watch: Watch) -> None:
    """The fix is to let the generator live: the loop ends one that was dropped in a task that nobody made."""

    async def provided() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(async_shop) as session:  # generator-ended
            yield session

    generator = provided()
    session = await anext(generator)
    async with async_held(async_shop, session, load(session)):
        del generator
        gc.collect()
        await until(lambda: bool(watch.findings))
    finding = only(watch, "cross-task")
    assert "closed a session while task" in finding.message
    assert finding.line == line("generator-ended")
    assert finding.fix.startswith("let the generator live as long as the session is used")
    with contextlib.suppress(Exception):
        await session.close()


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until the condition holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 (nobody sets an event)
            await asyncio.sleep(0)


async def test_reports_a_background_task_that_outlives_its_request(async_shop: AsyncEngine, watch: Watch) -> None:
    """A task inside of run_sync() is found through the greenlet."""

    def background(session: Session) -> None:
        session.scalars(select(Order)).all()  # in-run-sync

    session = AsyncSession(async_shop)
    async with async_held(async_shop, session, session.run_sync(background)):
        await load(session)
    await session.close()
    assert evidence_line(only(watch, "cross-task"), "first") == line("in-run-sync")


async def gathered(*work: Coroutine[Any, Any, Any]) -> None:
    await asyncio.gather(*work, return_exceptions=True)  # gathered


async def grouped(*work: Coroutine[Any, Any, Any]) -> None:
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:  # grouped
            for one in work:
                group.create_task(one)


async def waited(*work: Coroutine[Any, Any, Any]) -> None:
    done, _ = await asyncio.wait([asyncio.create_task(one) for one in work])  # waited
    assert all(task.exception() or task.result() for task in done)


async def shielded(*work: Coroutine[Any, Any, Any]) -> None:
    async def one(part: Coroutine[Any, Any, Any]) -> None:
        await asyncio.wait_for(asyncio.shield(asyncio.create_task(part)), DEADLINE)  # shielded

    await asyncio.gather(*map(one, work), return_exceptions=True)


@pytest.mark.parametrize("wait", [gathered, grouped, waited, shielded])
async def test_points_at_who_waits_for_a_task_without_users_code(
    async_shop: AsyncEngine, watch: Watch, wait: Callable[..., Coroutine[Any, Any, None]]
) -> None:
    """``gather(session.execute(a), session.execute(b))``: no line of the user's runs in either task."""
    async with AsyncSession(async_shop) as session:
        await session.connection()
        await wait(session.execute(select(Order)), session.execute(select(Item)))
    finding = only(watch, "cross-task")
    assert finding.line == line(wait.__name__)
    assert evidence_line(finding, "first") == line(wait.__name__)


async def test_reports_where_a_task_was_created_in_debug_mode(async_shop: AsyncEngine, watch: Watch) -> None:
    """asyncio's debug mode knows the line that created a task."""
    asyncio.get_running_loop().set_debug(True)
    async with AsyncSession(async_shop) as session:
        await session.connection()
        tasks = [asyncio.create_task(load(session)) for _ in range(2)]  # created-here
        await asyncio.wait(tasks)
    sites = [item.site for item in only(watch, "cross-task").evidence if item.site]
    made = {site.function for site in sites if site.line == line("created-here")}
    assert made == {"test_reports_where_a_task_was_created_in_debug_mode"}


# -- ignored ------------------------------------------------------------------------------------------------


def test_ignores_a_hand_over_from_thread_to_thread(shop: Engine, watch: Watch) -> None:
    """A pool that runs each step in another thread uses the session in sequence."""
    session = Session(shop)
    for _ in range(3):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(read, session).result()
    session.commit()
    session.close()
    assert watch.findings == []


def test_ignores_threads_with_sessions_of_their_own(shop: Engine, watch: Watch) -> None:
    """A thread inside of its session does not disturb another thread's."""

    def work() -> None:
        with Session(shop) as session:
            read(session)

    if shop.pool.__class__.__name__ != "StaticPool":
        with held(shop, work):
            work()
    assert watch.findings == []


def test_ignores_statements_of_a_listener(shop: Engine, watch: Watch) -> None:
    """A statement that runs another one on its own connection is inside of itself."""

    def nested(connection: Connection, cursor: Any, statement: str, *_: object) -> None:
        if "orders" in statement:
            connection.execute(text("SELECT 1"))

    event.listen(shop, "before_cursor_execute", nested)
    with Session(shop) as session:
        read(session)
        flush(session)
        session.rollback()
    event.remove(shop, "before_cursor_execute", nested)
    assert watch.findings == []


def test_ignores_sqlalchemys_errors_of_one_thread(shop: Engine, watch: Watch) -> None:
    """A refusal without a second one inside is another story."""
    with Session(shop) as session:
        session.begin()
        with pytest.raises(InvalidRequestError):
            session.begin()
    assert watch.findings == []


def test_ignores_a_thread_that_failed_inside(shop: Engine, watch: Watch) -> None:
    """A statement that raises has left the session."""
    session = Session(shop)

    def fail() -> None:
        with pytest.raises(Exception, match="nothing_like_it"):
            session.execute(text("SELECT * FROM nothing_like_it"))
        session.rollback()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(fail).result()
    read(session)
    session.close()
    assert watch.findings == []


async def test_ignores_a_task_that_awaits_its_child(async_shop: AsyncEngine, watch: Watch) -> None:
    """Tasks that follow each other use the session in sequence; so do timeouts and shields that are awaited."""
    async with AsyncSession(async_shop) as session:
        await asyncio.create_task(load(session))
        await asyncio.wait_for(load(session), DEADLINE)
        await asyncio.shield(load(session))
        await session.run_sync(lambda sync: sync.scalars(select(Order)).all())
        async for _ in await session.stream(select(Order)):
            pass
        await session.commit()
    assert watch.findings == []


async def test_ignores_a_cancelled_task(async_shop: AsyncEngine, watch: Watch) -> None:
    """A task that was cancelled inside of a statement has left the session once it is done."""
    session = AsyncSession(async_shop)
    await session.connection()
    task = asyncio.create_task(load(session))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await session.close()
    async with AsyncSession(async_shop) as session:
        await load(session)
    assert watch.findings == []


async def test_ignores_a_timeout(async_shop: AsyncEngine, watch: Watch) -> None:
    """A statement that ran into a timeout is over when the session rolls back."""
    async with AsyncSession(async_shop) as session:
        await session.connection()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await load(session)
        await session.rollback()
    assert watch.findings == []


async def test_ignores_tasks_with_sessions_of_their_own(async_shop: AsyncEngine, watch: Watch) -> None:
    """A registry gives each task a session; a lock makes a sequence of them."""
    lock = asyncio.Lock()
    registry = async_scoped_session(async_sessionmaker(async_shop), scopefunc=asyncio.current_task)

    async def work() -> None:
        await load(registry())
        await registry.remove()

    async def in_turn(session: AsyncSession) -> None:
        async with lock:
            await load(session)

    await asyncio.gather(*(work() for _ in range(3)))
    async with AsyncSession(async_shop) as shared:
        await asyncio.gather(*(in_turn(shared) for _ in range(3)))
    assert watch.findings == []


async def test_ignores_generators_that_the_loop_finalises(async_shop: AsyncEngine, watch: Watch) -> None:
    """A generator that is broken off closes its session in a task of the loop's, after the statement."""

    async def sessions() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(async_shop) as session:
            yield session

    async for session in sessions():
        await load(session)
        break
    gc.collect()
    await asyncio.sleep(0)
    await asyncio.get_running_loop().shutdown_asyncgens()
    assert [finding for finding in watch.findings if finding.rule == "cross-task"] == []


# -- message and strict mode ----------------------------------------------------------------------------------


async def story(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:  # story-open
        await session.connection()
        first = asyncio.create_task(list_orders(session), name="orders")
        second = asyncio.create_task(list_items(session), name="items")
        await asyncio.gather(first, second, return_exceptions=True)


async def list_orders(session: AsyncSession) -> None:  # story-created-first
    await session.execute(select(Order))  # story-first


async def list_items(session: AsyncSession) -> None:  # story-created-second
    await session.execute(select(Item))  # story-second


async def test_message_word_for_word(async_shop: AsyncEngine, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole story of two tasks."""
    monkeypatch.chdir(Path(__file__).parent)
    await story(async_shop)
    finding = only(watch, "cross-task")
    label = finding.evidence[-1].session
    here = "test_cross_task.py"
    owner = next(item.task for item in finding.evidence if item.label == "opened")
    assert messages.render(finding) == textwrap.dedent(f"""\
        cross-task: task items ran SELECT items in a session while task orders was still inside of it
          second   {here}:{line("story-second")} in list_items      session {label}, task items
          created  {here}:{line("story-created-second")} in list_items      task items
          first    {here}:{line("story-first")} in list_orders     session {label}, task orders
          created  {here}:{line("story-created-first")} in list_orders     task orders
          opened   {here}:{line("story-open")} in story           session {label}, task {owner}
          fix: give each task a session of its own: async with AsyncSession(engine) as session: ...
          more: sessionwatch explain cross-task""")


def test_strict_raises_before_the_second_statement(shop: Engine, strict: Watch) -> None:
    """The second one's statement is not tried, the first one's goes on, and the pool ends idle."""
    outcome: list[object] = []
    with Session(shop) as session:
        session.connection()
        with held(shop, lambda: outcome.append(read(session))), pytest.raises(FindingError, match="thread worker"):
            read(session)
    only(strict, "cross-task")
    assert len(outcome) == 1
    assert is_idle(shop)


async def test_strict_raises_under_asyncio(async_shop: AsyncEngine, strict: Watch) -> None:
    """The error comes out of the task that came second; the first one gets its rows."""
    async with AsyncSession(async_shop) as session:
        await session.connection()
        first, second = await asyncio.gather(load(session), load(session, Item), return_exceptions=True)
    assert isinstance(first, list)
    assert isinstance(second, FindingError)
    only(strict, "cross-task")
    assert is_idle(async_shop)


async def test_strict_leaves_sqlalchemys_error(async_shop: AsyncEngine, strict: Watch) -> None:
    """An error that is on its way stays the same, with the story as its note."""
    await async_shop.dispose()
    async with AsyncSession(async_shop) as session:
        outcomes = await asyncio.gather(load(session), load(session, Item), return_exceptions=True)
    assert sum(isinstance(outcome, InvalidRequestError) for outcome in outcomes) == 1
    assert not any(isinstance(outcome, FindingError) for outcome in outcomes)
    only(strict, "cross-task")
    assert is_idle(async_shop)


def test_allowed(shop: Engine, strict: Watch) -> None:
    """An allowance covers the finding, and nothing is raised."""
    with Session(shop) as session:
        session.connection()
        with held(shop, lambda: read(session)), allow("cross-task", reason="the driver serialises them"):
            read(session)
    assert strict.findings == []
    assert len(strict.allowed) == 1


def test_ignores_a_transaction_that_has_ended(watch: Watch, shop: Engine) -> None:
    """What SQLAlchemy refuses on an ended transaction has no session to speak of."""
    with Session(shop) as session:
        transaction = session.begin()
        transaction.commit()
        with pytest.raises(InvalidRequestError):
            transaction.commit()
    assert watch.findings == []


def test_ignores_an_error_at_the_root_of_a_greenlet(watch: Watch) -> None:
    """An exception that nothing on the stack has made is none of ours."""
    assert isinstance(greenlet(InvalidRequestError).switch("nobody"), InvalidRequestError)
    assert isinstance(greenlet(MissingGreenlet).switch("nobody"), MissingGreenlet)
    assert watch.findings == []
