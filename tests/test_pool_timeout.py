"""A pool that times out says who holds its connections."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool

import sessionwatch
from sessionwatch.output.throttle import REPEAT, Throttle
from sessionwatch.watch import installation
from tests.programs.shop import Base, Order, _our_errors_raise  # noqa: F401 (fixture)
from tests.rules.places import line
from tests.tracing.otel import Otel


def small(path: Path, size: int = 2) -> Engine:
    """An engine that gives up at once when its few connections are out."""
    url = f"sqlite:///{path}"
    engine = create_engine(url, poolclass=QueuePool, pool_size=size, max_overflow=0, pool_timeout=0.01)
    Base.metadata.create_all(engine)
    return engine


def note(error: pytest.ExceptionInfo[PoolTimeout]) -> str:
    """The one note of the error."""
    (only,) = error.value.__notes__
    return str(only)


def hold(session: Session) -> None:
    session.scalars(select(Order)).all()  # holds


def test_every_holder_is_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each session in a transaction: where it was opened, began, and is now, its last statement, its thread."""
    engine = small(tmp_path / "a.db")
    began, done = threading.Event(), threading.Event()

    def work() -> None:
        with Session(engine) as session:  # opened-in-thread
            hold(session)
            began.set() or done.wait()  # waits-in-thread

    with sessionwatch.watching(), Session(engine) as first, caplog.at_level(logging.WARNING):
        thread = threading.Thread(target=work, name="worker-7")
        thread.start()
        began.wait()
        hold(first)
        with pytest.raises(PoolTimeout) as error, Session(engine) as third:
            hold(third)
        done.set()
        thread.join()
    story = note(error)
    rows = story.splitlines()
    assert rows[0] == "sessionwatch: the pool had 2 connections checked out, 2 of them by sessions in a transaction"
    assert re.fullmatch(r"  session S\d+, in a transaction for \d+\.\d s", rows[1])
    assert re.search(
        rf"holds +\S+:{line('waits-in-thread')} in .*work .*waits or works here now, thread worker-7", story
    )
    assert re.search(rf"opened +\S+:{line('opened-in-thread')} in .*work .*thread worker-7", story)
    assert len(re.findall(rf"executed +\S+:{line('holds')} in hold +SELECT orders$", story, re.MULTILINE)) == 2
    assert len(re.findall(rf"began +\S+:{line('holds')} in hold ", story)) == 2
    assert caplog.messages == [story]


def test_only_this_pool_counts(tmp_path: Path) -> None:
    """Sessions of another engine, and those that have ended their transaction, are not listed; others are counted."""
    engine, other = small(tmp_path / "a.db", 1), small(tmp_path / "b.db", 1)
    with sessionwatch.watching(log=False), Session(other) as elsewhere, Session(engine) as ended:
        hold(elsewhere)
        hold(ended)
        ended.commit()
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            with pytest.raises(PoolTimeout) as error:
                hold(ended)
    assert note(error) == "sessionwatch: the pool had 1 connection checked out, 0 of them by sessions in a transaction"


async def test_asyncio_pools_as_well(tmp_path: Path) -> None:
    """AsyncAdaptedQueuePool, with the task and the line where it waits."""
    small(tmp_path / "a.db").dispose()
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path / 'a.db'}",
        poolclass=AsyncAdaptedQueuePool,  # not yet the default of 2.0.22
        pool_size=1,
        max_overflow=0,
        pool_timeout=0.01,
    )
    began, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with AsyncSession(engine) as session:
            await session.scalars(select(Order))
            began.set()
            await done.wait()  # task-waits

    with sessionwatch.watching(log=False):
        task = asyncio.create_task(work(), name="job-7")
        await began.wait()
        with pytest.raises(PoolTimeout) as error:
            async with AsyncSession(engine) as session:
                await session.scalars(select(Order))
        done.set()
        await task
    await engine.dispose()
    assert re.search(rf"holds +\S+:{line('task-waits')} in .*work .*waits or works here now, task job-7", note(error))


def test_nothing_is_added_where_it_is_off(tmp_path: Path) -> None:
    """With both rules off, and after uninstall, the error is SQLAlchemy's alone."""
    engine = small(tmp_path / "a.db", 1)
    with sessionwatch.watching(log=False, rules={"long-session": "off", "session-leak": "off"}):
        assert not hasattr(run_dry(engine), "__notes__")
    assert not hasattr(run_dry(engine), "__notes__")


def test_another_time_out_is_left_alone() -> None:
    """Somebody else's use of the same exception gets no story."""
    with sessionwatch.watching(log=False):
        assert not hasattr(PoolTimeout("mine"), "__notes__")


def run_dry(engine: Engine) -> PoolTimeout:
    with Session(engine) as first, Session(engine) as second:
        hold(first)
        with pytest.raises(PoolTimeout) as error:
            hold(second)
    return error.value


def test_many_timeouts_are_one_record_an_hour(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each error has the whole story; the log has it for the first, and then once an hour with the number since."""
    engine = small(tmp_path / "a.db", 1)
    now = [0.0]
    with sessionwatch.watching() as watch, Session(engine) as holder:
        watch.audience._dry = Throttle(lambda: now[0])
        hold(holder)
        for moment in (0.0, 1.0, REPEAT - 1, REPEAT, REPEAT + 1):
            now[0] = moment
            with pytest.raises(PoolTimeout) as error, Session(engine) as waiting:
                hold(waiting)
            assert note(error).startswith("sessionwatch: the pool had 1 connection checked out")
    first, second = (record for record in caplog.records if record.name == "sessionwatch")
    assert (first.levelno, first.getMessage().count("timeouts of this pool")) == (logging.ERROR, 0)
    assert second.getMessage().endswith("3 timeouts of this pool since the last record of them")
    assert vars(second)["sessionwatch.count_since_last"] == 3
    engine.dispose()


def test_story_is_a_record_of_opentelemetry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the pool's name, the class of the error, where it is held the longest, and the span that waited."""
    otel = Otel()
    engine = small(tmp_path / "a.db", 1)
    engine.pool.logging_name = "orders"
    watch = installation.install(mode="telemetry", rules={"config": "off"}, providers=otel.providers)
    with watch, Session(engine) as holder, otel.tracer.start_as_current_span("request") as request:
        hold(holder)
        for _ in range(3):
            with pytest.raises(PoolTimeout), Session(engine) as waiting:
                hold(waiting)
        story = next(record for record in otel.logs if record.severity_text == "ERROR")
        assert story.body.startswith("sessionwatch: the pool had 1 connection checked out")
        assert story.event_name == "sessionwatch.pool.timeout"
        assert story.span_id == request.get_span_context().span_id
        assert dict(story.attributes) == {
            "error.type": "sqlalchemy.exc.TimeoutError",
            "db.client.connection.pool.name": "orders",
            "sessionwatch.count_since_last": 1,
            "sessionwatch.severity": "fault",
            "code.file.path": __file__,
            "code.line.number": line("holds"),
            "code.function.name": f"{__name__}.hold",
        }
        assert len(otel.logs) == len([one for one in caplog.records if one.name == "sessionwatch"]) == 1
    engine.dispose()
    otel.shutdown()
