"""``session-leak`` while it happens: whoever had the session has ended, and it is still open."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch.output import messages
from sessionwatch.watch.watch import Watch
from tests.rules.clock import Clock
from tests.rules.models import Order, Tag
from tests.rules.places import is_idle, labels, line, only

ONLY: dict[str, sessionwatch.model.Level] = {"long-session": "off"}


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Mode ``log``, without long-session, which reports these transactions as well."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    sessionwatch.uninstall()
    with sessionwatch.watching("log", rules=ONLY, log=False) as installed:
        yield installed


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


def test_reports_a_thread_that_ended(shop: Engine, watch: Watch, clock: Clock) -> None:
    """The thread has ended, the session is kept somewhere, and nobody did anything with it for 30 seconds."""
    kept: list[Session] = []
    in_thread(lambda: open_and_forget(shop, kept))
    wait(clock)
    finding = only(watch, "session-leak")
    assert finding.message == ("a session was left open by a thread that has ended, with its connection checked out")
    assert finding.line == line("left-open")
    assert labels(finding) == ["holds", "executed", "opened"]
    assert "  holds     thread worker-7, which began it, has ended\n" in messages.render(finding)
    kept[0].close()


async def test_reports_a_task_that_is_done(async_shop: AsyncEngine, watch: Watch, clock: Clock) -> None:
    """The same with a task."""
    kept: list[AsyncSession] = []

    async def work() -> None:
        kept.append(AsyncSession(async_shop))  # left-by-task
        await kept[0].scalars(select(Order))

    await asyncio.create_task(work(), name="job-7")
    wait(clock)
    finding = only(watch, "session-leak")
    assert finding.message == "an async session was left open by a task that has ended, with its connection checked out"
    assert finding.line == line("left-by-task")
    assert finding.evidence[0].note == "task job-7, which began it, has ended"
    await kept[0].close()


def test_reports_it_once(shop: Engine, watch: Watch, clock: Clock) -> None:
    """What was seen while it happened is not counted again when the session is collected or the program ends."""
    kept: list[Session] = []
    in_thread(lambda: open_and_forget(shop, kept))
    wait(clock)
    wait(clock)
    watch._at_exit()
    assert only(watch, "session-leak").count == 1
    kept[0].close()


def test_reports_that_it_was_closed_after_all(
    shop: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody closes it later: the log and the finding say so."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    kept: list[Session] = []
    with sessionwatch.watching("log", rules=ONLY) as watch:
        clock = Clock(watch)
        in_thread(lambda: open_and_forget(shop, kept))
        wait(clock)
        finding = only(watch, "session-leak")
        label = finding.session and finding.session["id"]
        assert watch.status()["overdue"] == {"session-leak": [label]}
        with caplog.at_level(logging.INFO, "sessionwatch"):
            kept[0].close()
        assert caplog.messages[-1] == f"session-leak: the transaction of session {label} ended after 40.0 s"
        assert finding.evidence[0].note == f"the transaction of session {label} ended after 40.0 s"
        assert watch.status()["overdue"] == {"session-leak": []}


def test_strict_raises_nothing_in_the_program(shop: Engine, strict: Watch) -> None:
    """There is no safe point while it happens: it waits for the test's report, and closing is as ever."""
    kept: list[Session] = []
    in_thread(lambda: open_and_forget(shop, kept))
    wait(Clock(strict))
    assert sorted(finding.rule for finding in strict.findings) == ["long-session", "session-leak"]
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
    assert watch.findings == []


def test_ignores_a_session_that_somebody_else_opened(shop: Engine, watch: Watch, clock: Clock) -> None:
    """A thread that only used the session is not the one who has to close it."""
    with Session(shop) as session:
        in_thread(lambda: session.scalars(select(Order)).all())
        wait(clock)
    assert watch.findings == []


async def test_ignores_a_statement_in_a_task_of_its_own(async_shop: AsyncEngine, watch: Watch, clock: Clock) -> None:
    """The task that began the transaction is done, the one that opened the session is at work elsewhere."""
    async with AsyncSession(async_shop) as session:
        await asyncio.create_task(session.execute(select(Order)))  # type: ignore[arg-type]
        wait(clock)
    assert watch.findings == []


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
    assert watch.findings == []


def test_ignores_a_thread_that_lives(shop: Engine, watch: Watch, clock: Clock) -> None:
    """Idle is not leaked: the main thread may come back to it."""
    with Session(shop) as session:
        session.scalars(select(Order)).all()
        wait(clock)
    assert watch.findings == []


def test_ignores_a_session_that_holds_no_connection(shop: Engine, watch: Watch, clock: Clock) -> None:
    """A thread left a session behind that had committed."""
    kept: list[Session] = []

    def work() -> None:
        open_and_forget(shop, kept)
        kept[0].commit()

    in_thread(work)
    wait(clock)
    assert watch.findings == []
