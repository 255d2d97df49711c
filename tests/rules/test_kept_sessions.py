"""A session that the program still holds after its thread or task has ended: ``long-session``'s, and no leak."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from sessionwatch.output import messages
from sessionwatch.watch.watch import Watch
from tests.rules.clock import Clock
from tests.rules.models import Order, Tag
from tests.rules.places import is_idle, labels, line, only


@pytest.fixture
def clock(watch: Watch) -> Clock:
    """The clock of `watch`."""
    return Clock(watch)


def in_thread(function: Callable[[], object], name: str = "worker-7") -> None:
    thread = threading.Thread(target=function, name=name)
    thread.start()
    thread.join()


def wait(clock: Clock) -> None:
    for _ in range(8):
        clock.sleep(5)


def open_and_forget(engine: Engine, kept: list[Session]) -> None:
    kept.append(Session(engine))  # left-open
    kept[0].scalars(select(Order)).all()


# -- reported ---------------------------------------------------------------------------------------------


def test_a_thread_that_ended_left_no_leak(shop: Engine, watch: Watch, clock: Clock) -> None:
    """The thread has ended, the session is kept somewhere: its transaction is open for long, and that is all."""
    kept: list[Session] = []
    in_thread(lambda: open_and_forget(shop, kept))
    wait(clock)
    finding = only(watch, "long-session")
    assert finding.message == "a transaction was idle for more than 5 s, and was still open"
    assert labels(finding) == ["holds", "executed", "began", "opened"]
    assert "  holds     thread worker-7, which began it, has ended\n" in messages.render(finding)
    kept[0].close()


async def test_a_task_that_is_done_left_no_leak(async_shop: AsyncEngine, watch: Watch, clock: Clock) -> None:
    """The same with a task."""
    kept: list[AsyncSession] = []

    async def work() -> None:
        kept.append(AsyncSession(async_shop))
        await kept[0].scalars(select(Order))

    await asyncio.create_task(work(), name="job-7")
    wait(clock)
    assert only(watch, "long-session").evidence[0].note == "task job-7, which began it, has ended"
    await kept[0].close()


def test_it_is_a_leak_at_the_end_of_the_program(shop: Engine, watch: Watch, clock: Clock) -> None:
    """Nobody closed it until then."""
    kept: list[Session] = []
    in_thread(lambda: open_and_forget(shop, kept))
    wait(clock)
    watch.ends.at_exit()
    assert [finding.rule for finding in watch.findings] == ["long-session", "session-leak"]
    assert watch.findings[1].line == line("left-open")
    kept[0].close()


def test_it_is_a_leak_once_it_is_collected(shop: Engine, watch: Watch, clock: Clock) -> None:
    """Nor did it before the session was dropped."""
    kept: list[Session] = []
    in_thread(lambda: open_and_forget(shop, kept))
    wait(clock)
    kept.clear()
    gc.collect()
    assert [finding.rule for finding in watch.findings] == ["long-session", "session-leak"]


def test_strict_raises_nothing_in_the_program(shop: Engine, strict: Watch) -> None:
    """There is no safe point while it happens: it waits for the test's report, and closing is as ever."""
    kept: list[Session] = []
    in_thread(lambda: open_and_forget(shop, kept))
    wait(Clock(strict))
    assert [finding.rule for finding in strict.findings] == ["long-session"]
    kept[0].close()
    assert is_idle(shop)


# -- silent -----------------------------------------------------------------------------------------------


def test_ignores_a_hand_over(shop: Engine, watch: Watch, clock: Clock) -> None:
    """A thread loads, the next one goes on: there is somebody, so long as something is done with it."""
    kept: list[Session] = []
    in_thread(lambda: open_and_forget(shop, kept))
    for _ in range(5):
        clock.sleep(20)
        in_thread(lambda: kept[0].scalars(select(Tag)).all())
    kept[0].close()
    assert "session-leak" not in [finding.rule for finding in watch.findings]


def test_ignores_a_session_that_somebody_else_opened(shop: Engine, watch: Watch, clock: Clock) -> None:
    """A thread that only used the session is not the one who has to close it."""
    with Session(shop) as session:
        in_thread(lambda: session.scalars(select(Order)).all())
        wait(clock)
    assert "session-leak" not in [finding.rule for finding in watch.findings]


async def test_ignores_a_statement_in_a_task_of_its_own(async_shop: AsyncEngine, watch: Watch, clock: Clock) -> None:
    """The task that began the transaction is done, the one that opened the session is at work elsewhere."""
    async with AsyncSession(async_shop) as session:
        await asyncio.create_task(session.execute(select(Order)))  # type: ignore[arg-type]
        wait(clock)
    assert "session-leak" not in [finding.rule for finding in watch.findings]


def test_ignores_a_provider_that_goes_on_in_another_thread(shop: Engine, watch: Watch, clock: Clock) -> None:
    """A thread pool runs a dependency up to its yield; the thread may end before it is resumed by another."""

    def provide() -> Iterator[Session]:
        with Session(shop) as session:
            session.scalars(select(Order)).all()
            yield session

    provider = provide()
    in_thread(lambda: next(provider))
    wait(clock)
    provider.close()
    assert "session-leak" not in [finding.rule for finding in watch.findings]


def test_ignores_a_thread_that_lives(shop: Engine, watch: Watch, clock: Clock) -> None:
    """Idle is not leaked: the main thread may come back to it."""
    with Session(shop) as session:
        session.scalars(select(Order)).all()
        wait(clock)
    assert "session-leak" not in [finding.rule for finding in watch.findings]


def test_ignores_a_session_that_holds_no_connection(shop: Engine, watch: Watch, clock: Clock) -> None:
    """A thread left a session behind that had committed."""
    kept: list[Session] = []

    def work() -> None:
        open_and_forget(shop, kept)
        kept[0].commit()

    in_thread(work)
    wait(clock)
    assert watch.findings == []
