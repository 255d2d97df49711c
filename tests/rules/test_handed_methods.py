"""Methods of a session that are handed to a worker thread: the awaiting line of the program stands for them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.to_thread
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from sessionwatch.watch.watch import Watch
from tests.rules.models import Tag, seed
from tests.rules.places import evidence_line, line, only

Run = Callable[..., Awaitable[Any]]


async def through_a_helper(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.to_thread(function, *args)


async def through_anyio(function: Callable[..., Any], *args: Any) -> Any:
    return await anyio.to_thread.run_sync(function, *args)


async def as_a_partial(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.to_thread(functools.partial(function, *args))


async def in_an_executor(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, functools.partial(function, *args))


RUNS = [asyncio.to_thread, anyio.to_thread.run_sync, through_a_helper, through_anyio, as_a_partial, in_an_executor]


@pytest.mark.parametrize("run", RUNS)
async def test_shows_the_awaiting_line(watch: Watch, run: Run) -> None:
    """Flushed and closed at the lines that hand the methods over, not in the thread, nor in who passes them on."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    seed(engine)
    watch.clear()  # what was seeded held up the loop
    session = Session(engine)
    session.add(Tag(name="late"))
    await run(session.flush)  # handed-flush
    await run(session.close)  # handed-close
    finding = only(watch, "lost-writes")
    assert finding.line == line("handed-close")
    assert evidence_line(finding, "closed") == line("handed-close")
    assert evidence_line(finding, "written") == line("handed-flush")


@pytest.mark.parametrize("run", RUNS[:4])
async def test_ignores_methods_that_were_handed_over_and_commit(watch: Watch, run: Run) -> None:
    """What is committed by such a method is committed."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    seed(engine)
    watch.clear()  # what was seeded held up the loop
    session = Session(engine)
    session.add(Tag(name="late"))
    await run(session.commit)
    await run(session.close)
    assert watch.findings == []
