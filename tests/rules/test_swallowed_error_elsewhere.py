"""``swallowed-error``: errors that are caught where the loop is run, or where a worker thread's future is asked."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from types import FrameType

import pytest
from anyio import to_thread
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sessionwatch.frames.tasks import outwards
from sessionwatch.watch.watch import Watch
from tests.rules.models import Tag, create_async
from tests.rules.places import only

TAKEN = text("INSERT INTO orders (id, status) VALUES (1, 'again')")
Fails = Callable[[ThreadPoolExecutor, Callable[[], object]], None]
WRONG = text("INSERT INTO nowhere VALUES (1)")


@pytest.fixture
def on_sqlite(tmp_path: Path) -> AsyncEngine:
    """An engine without a loop: the test runs its own, several times."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'here.db'}")
    with asyncio.Runner() as runner:
        runner.run(create_async(engine))
        runner.run(engine.dispose())
    return engine


async def work(session: AsyncSession) -> None:
    session.add(Tag(name="lost"))
    await session.flush()
    await session.execute(WRONG)


def caught_around(runner: asyncio.Runner, session: AsyncSession) -> None:
    with contextlib.suppress(DBAPIError):
        runner.run(work(session))


def caught_by_name(runner: asyncio.Runner, session: AsyncSession) -> None:
    with contextlib.suppress(OperationalError):
        runner.run(work(session))


def expected(runner: asyncio.Runner, session: AsyncSession) -> None:
    with pytest.raises(DBAPIError):
        runner.run(work(session))


def rolled_back(runner: asyncio.Runner, session: AsyncSession) -> None:
    try:
        runner.run(work(session))
    except DBAPIError:
        runner.run(session.rollback())


def test_reports_an_error_that_who_runs_the_loop_caught(on_sqlite: AsyncEngine, watch: Watch) -> None:
    """asyncio.run() and Runner.run() raise what their coroutine raises."""
    session = AsyncSession(on_sqlite)
    with asyncio.Runner() as runner:
        caught_around(runner, session)
        runner.run(session.close())
        runner.run(on_sqlite.dispose())
    assert "was closed without a rollback" in only(watch, "swallowed-error").message


@pytest.mark.parametrize("answers", [caught_by_name, expected, rolled_back])
def test_ignores_an_error_that_who_runs_the_loop_answered(
    on_sqlite: AsyncEngine, watch: Watch, answers: Callable[[asyncio.Runner, AsyncSession], None]
) -> None:
    """By its name, as a test that expects it, or by a rollback."""
    session = AsyncSession(on_sqlite)
    with asyncio.Runner() as runner:
        answers(runner, session)
        runner.run(session.close())
        runner.run(on_sqlite.dispose())
    assert watch.findings == []


def test_reports_an_error_in_a_loop_of_a_worker_thread(on_sqlite: AsyncEngine, watch: Watch) -> None:
    """It leaves the loop, and then the thread, by whose future it arrives here."""
    session, test = AsyncSession(on_sqlite), threading.get_ident()

    def serve() -> None:
        until_it_waits(test)
        with asyncio.Runner() as runner:
            runner.run(work(session))

    with ThreadPoolExecutor(1) as pool, contextlib.suppress(DBAPIError):
        pool.submit(serve).result()
    with asyncio.Runner() as runner:
        runner.run(session.close())
        runner.run(on_sqlite.dispose())
    assert "was closed without a rollback" in only(watch, "swallowed-error").message


# -- threads ------------------------------------------------------------------------------------------------


def until_it_waits(thread: int) -> None:
    """For a future, or as a loop."""
    while not any(map(waits, outwards(sys._current_frames()[thread]))):
        time.sleep(0.001)


def waits(frame: FrameType) -> bool:
    return frame.f_globals["__name__"] == "concurrent.futures._base" or frame.f_code.co_name == "select"


def _by_result(pool: ThreadPoolExecutor, work: Callable[[], object]) -> None:
    with contextlib.suppress(DBAPIError):
        pool.submit(work).result()


def _by_exception(pool: ThreadPoolExecutor, work: Callable[[], object]) -> None:
    assert isinstance(pool.submit(work).exception(), DBAPIError)


def _by_map(pool: ThreadPoolExecutor, work: Callable[[], object]) -> None:
    with contextlib.suppress(DBAPIError):
        list(pool.map(lambda _: work(), [1]))


def _by_wait(pool: ThreadPoolExecutor, work: Callable[[], object]) -> None:
    with contextlib.suppress(DBAPIError):
        for future in as_completed([pool.submit(work)]):
            future.result()


def _on_a_loop(pool: ThreadPoolExecutor, work: Callable[[], object]) -> None:
    async def main() -> None:
        with contextlib.suppress(DBAPIError):
            await asyncio.to_thread(work)

    asyncio.run(main())


def _by_anyio(pool: ThreadPoolExecutor, work: Callable[[], object]) -> None:
    async def main() -> None:
        with contextlib.suppress(DBAPIError):
            await to_thread.run_sync(work)

    asyncio.run(main())


def in_a_thread(engine: Engine, fails: Fails) -> None:
    """A worker thread's statement fails once the test's thread waits for it, as ``fails`` does."""
    test = threading.get_ident()

    def work() -> None:
        until_it_waits(test)
        session.execute(TAKEN)

    with ThreadPoolExecutor(1) as pool, Session(engine) as session:
        fails(pool, work)


THREADS = [_by_result, _by_exception, _by_map, _by_wait, _on_a_loop, _by_anyio]


@pytest.mark.parametrize("fails", THREADS)
def test_reports_an_error_that_who_waits_for_its_thread_caught(shop: Engine, watch: Watch, fails: Fails) -> None:
    """An error leaves a worker thread by a future, for whoever waits for that one."""
    in_a_thread(shop, fails)
    assert "was closed without a rollback" in only(watch, "swallowed-error").message


def test_reports_an_error_that_was_asked_for_later(shop: Engine, watch: Watch) -> None:
    """Nobody waits when it arises; the future has it still, and who has caught it is on its traceback."""
    with ThreadPoolExecutor(1) as pool, Session(shop) as session:
        future = pool.submit(session.execute, TAKEN)
        wait([future])
        with contextlib.suppress(DBAPIError):
            future.result()
    assert "was closed without a rollback" in only(watch, "swallowed-error").message


def _expected(pool: ThreadPoolExecutor, work: Callable[[], object]) -> None:
    with pytest.raises(DBAPIError):
        pool.submit(work).result()


def _by_name(pool: ThreadPoolExecutor, work: Callable[[], object]) -> None:
    with contextlib.suppress(IntegrityError):
        pool.submit(work).result()


def _not_asked(pool: ThreadPoolExecutor, work: Callable[[], object]) -> None:
    wait([pool.submit(work)])


@pytest.mark.parametrize("fails", [_expected, _by_name, _not_asked])
def test_ignores_an_error_of_a_thread_that_nobody_hides(shop: Engine, watch: Watch, fails: Fails) -> None:
    """A test expects it, a handler names it; of one that nobody asked for it is not known who was told."""
    in_a_thread(shop, fails)
    assert watch.findings == []
