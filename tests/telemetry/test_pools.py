"""Connection pools, sync and asyncio, as a reader of the real SDK sees them."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, event, text
from sqlalchemy import pool as pools
from sqlalchemy.event import registry
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

from sessionwatch.hooks import pools as hooked
from sessionwatch.hooks.reading import name_of
from sessionwatch.watch.watch import Watch
from tests.telemetry.readings import Readings, all_series

COUNT, MAX, IDLE_MAX, IDLE_MIN, PENDING, TIMEOUTS, WAIT, USE, CREATE = (
    f"db.client.connection.{name}"
    for name in (
        "count", "max", "idle.max", "idle.min", "pending_requests", "timeouts", "wait_time", "use_time", "create_time",
    )
)  # fmt: skip
GAUGES = (COUNT, PENDING, TIMEOUTS, IDLE_MAX, IDLE_MIN)
KEPT = {"QueuePool": 5, "NullPool": 0, "StaticPool": 1, "SingletonThreadPool": 5, "AssertionPool": 1}
LIMITS = {"QueuePool": 15, "NullPool": None, "StaticPool": 1, "SingletonThreadPool": 5, "AssertionPool": 1}


def made(path: Path, kind: str = "QueuePool", **keywords: Any) -> Engine:
    return create_engine(f"sqlite:///{path / 'a.db'}", poolclass=getattr(pools, kind), **keywords)


@pytest.mark.parametrize("kind", LIMITS)
def test_every_kind_of_pool(kind: str, tmp_path: Path, watch: Watch, readings: Readings) -> None:
    """What is used and idle, how many there may be, and how long it took."""
    engine = made(tmp_path, kind)
    with engine.connect():
        assert readings.values(COUNT) == {("sqlite/a.db", "used"): 1}
    assert readings.values(COUNT) == ({} if kind == "NullPool" else {("sqlite/a.db", "idle"): 1})
    with engine.connect() as connection:
        assert readings.values(COUNT) == {("sqlite/a.db", "used"): 1}
        connection.detach()
        assert readings.values(COUNT) == {}
    limit = LIMITS[kind]
    assert readings.values(MAX) == ({("sqlite/a.db",): limit} if limit else {})
    assert readings.values(IDLE_MAX) == ({("sqlite/a.db",): KEPT[kind]} if KEPT[kind] else {})
    assert readings.values(CREATE) == {("sqlite/a.db",): 2 if kind == "NullPool" else 1}
    assert readings.values(WAIT) == {("sqlite/a.db",): 2}
    assert readings.values(USE) == {("sqlite/a.db",): 2}
    assert (readings.values(PENDING), readings.values(TIMEOUTS)) == ({}, {})
    engine.dispose()


@pytest.mark.parametrize("made_first", [True, False])
def test_pool_is_there_before_its_first_use(
    made_first: bool, tmp_path: Path, installed: Callable[..., Watch], readings: Readings
) -> None:
    """From ``create_engine`` or the installation on, whichever came later: so that its first timeout is a step."""
    if made_first:
        engine = made(tmp_path)
        installed()
    else:
        installed()
        engine = made(tmp_path)
    engine.execution_options(isolation_level="AUTOCOMMIT")  # an engine without a pool of its own
    of_this = {series for name in GAUGES for series in all_series(readings, name) if "sqlite/a.db" in series[0]}
    assert of_this == {("sqlite/a.db",), ("sqlite/a.db", "idle"), ("sqlite/a.db", "used")}
    assert readings.values(COUNT) == readings.values(TIMEOUTS) == readings.values(IDLE_MIN) == {}
    engine.dispose()


def test_engine_without_a_limit(tmp_path: Path, watch: Watch, readings: Readings) -> None:
    """A pool of any size has neither limit."""
    engine = made(tmp_path, pool_size=0)
    engine.connect().close()
    assert not {series for name in (MAX, IDLE_MAX) for series in all_series(readings, name)}
    assert ("sqlite/a.db",) in all_series(readings, IDLE_MIN)
    engine.dispose()


def test_time_of_a_connection_that_was_replaced(tmp_path: Path, watch: Watch, readings: Readings) -> None:
    """Each connection that the pool opens is a sample, also one in the place of another."""
    engine = made(tmp_path)
    with engine.connect() as connection:
        connection.invalidate()
    engine.connect().close()
    engine.dispose()
    engine.connect().close()
    assert readings.values(CREATE) == {("sqlite/a.db",): 3}
    assert readings.sums(CREATE)["sqlite/a.db",] > 0
    engine.dispose()


def test_thread_that_asks_twice_has_one_connection(tmp_path: Path, watch: Watch, readings: Readings) -> None:
    """A SingletonThreadPool gives a thread its own again: it is in use until the last one gives it back."""
    engine = made(tmp_path, "SingletonThreadPool")
    first, second = engine.connect(), engine.connect()
    assert readings.values(COUNT) == {("sqlite/a.db", "used"): 1}
    first.close()
    assert readings.values(COUNT) == {("sqlite/a.db", "used"): 1}
    second.close()
    assert readings.values(COUNT) == {("sqlite/a.db", "idle"): 1}
    engine.dispose()


@pytest.mark.parametrize("kind", ["AsyncAdaptedQueuePool", "NullPool", "StaticPool"])
async def test_pools_of_asyncio(kind: str, tmp_path: Path, watch: Watch, readings: Readings) -> None:
    """The same for async engines."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}", poolclass=getattr(pools, kind))
    async with AsyncSession(engine) as session:
        await session.execute(text("SELECT 1"))
        assert readings.values(COUNT) == {("sqlite/a.db", "used"): 1}
    assert readings.values(COUNT) == ({} if kind == "NullPool" else {("sqlite/a.db", "idle"): 1})
    assert readings.values(USE) == {("sqlite/a.db",): 1}
    await engine.dispose()


def test_waiting_and_timeouts(tmp_path: Path, watch: Watch, readings: Readings) -> None:
    """A pool without a connection left: who waits is seen while it waits, and who gave up is counted."""
    engine = made(tmp_path, pool_size=1, max_overflow=0, pool_timeout=30)
    held = engine.connect()
    waiter = threading.Thread(target=lambda: engine.connect().close())
    waiter.start()
    while readings.values(PENDING) != {("sqlite/a.db",): 1}:
        assert waiter.is_alive()
    held.close()
    waiter.join()
    assert readings.values(PENDING) == {}
    engine.pool._timeout = 0.01  # type: ignore[attr-defined]
    with engine.connect(), pytest.raises(PoolTimeout):
        engine.connect()
    assert readings.values(TIMEOUTS) == {("sqlite/a.db",): 1}
    assert readings.values(PENDING) == {}
    assert readings.values(WAIT) == {("sqlite/a.db",): 3}
    engine.dispose()


async def test_waiting_under_asyncio(tmp_path: Path, watch: Watch, readings: Readings) -> None:
    """Tasks wait as threads do."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'a.db'}"
    engine = create_async_engine(
        url, poolclass=pools.AsyncAdaptedQueuePool, pool_size=1, max_overflow=0, pool_timeout=30
    )

    async def work() -> None:
        async with engine.connect():
            pass

    async with engine.connect():
        task = asyncio.create_task(work())
        while readings.values(PENDING) != {("sqlite/a.db",): 1}:  # noqa: ASYNC110 (nothing tells who waits)
            await asyncio.sleep(0)
    await task
    assert readings.values(PENDING) == {}
    await engine.dispose()


def test_connection_that_cannot_be_made(tmp_path: Path, watch: Watch, readings: Readings) -> None:
    """The host's error passes through, and nobody waits afterwards."""
    engine = create_engine(f"sqlite:///{tmp_path / 'missing' / 'a.db'}")
    with pytest.raises(OperationalError) as caught:
        engine.connect()
    assert "sessionwatch" not in str([frame.path for frame in caught.traceback])
    assert readings.values(PENDING) == readings.values(WAIT) == readings.values(COUNT) == {}


@pytest.mark.postgresql
def test_engine_and_connection_from_before_the_installation(
    postgres_url: URL, installed: Callable[..., Watch], readings: Readings
) -> None:
    """Its pool is seen; a connection that went out earlier is known once it is back."""
    engine = create_engine(postgres_url)
    early = engine.connect()
    installed()
    name = f"{postgres_url.host}:{postgres_url.port}/{postgres_url.database}"
    assert readings.values(COUNT) == {}
    early.close()
    assert readings.values(COUNT) == {(name, "idle"): 1}
    with engine.connect():
        assert readings.values(COUNT) == {(name, "used"): 1}
    assert readings.values(COUNT) == {(name, "idle"): 1}
    engine.dispose()


@pytest.mark.postgresql
def test_dispose_and_invalidate(postgres_url: URL, watch: Watch, readings: Readings) -> None:
    """The pool that takes its place goes on under the same name; a connection that was out is still counted."""
    engine = create_engine(postgres_url)
    out = engine.connect()
    engine.dispose()
    name = f"{postgres_url.host}:{postgres_url.port}/{postgres_url.database}"
    with engine.connect() as connection:
        assert readings.values(COUNT) == {(name, "used"): 2}
        connection.invalidate()
        assert readings.values(COUNT) == {(name, "used"): 1}
    out.close()
    assert set(readings.values(WAIT)) == {(name,)}
    assert (name, "used") not in readings.values(COUNT)
    engine.dispose()


def test_engines_with_options_share_a_pool(tmp_path: Path, watch: Watch, readings: Readings) -> None:
    """``execution_options()`` makes an engine, and no pool."""
    engine = made(tmp_path)
    with engine.connect(), engine.execution_options(isolation_level="AUTOCOMMIT").connect():
        assert readings.values(COUNT) == {("sqlite/a.db", "used"): 2}
    engine.dispose()


def test_several_engines_on_one_database(tmp_path: Path, watch: Watch, readings: Readings) -> None:
    """Each has a name; one that is gone gives its name back, and its connections are counted no more."""
    first, second = made(tmp_path), made(tmp_path)
    for engine in (first, second):
        engine.connect().close()
    assert readings.values(COUNT) == {("sqlite/a.db", "idle"): 1, ("sqlite/a.db#2", "idle"): 1}
    first.dispose()
    del first, engine
    gc.collect()
    assert readings.values(COUNT) == {("sqlite/a.db#2", "idle"): 1}
    third = made(tmp_path)
    third.connect().close()
    assert readings.values(COUNT) == {("sqlite/a.db", "idle"): 1, ("sqlite/a.db#2", "idle"): 1}
    second.dispose()
    third.dispose()


def test_engines_that_exist_are_found_the_older_ones_first(tmp_path: Path) -> None:
    """Those of the program's own class, too; one that ``execution_options()`` made has no pool of its own."""

    class Own(Engine):
        pass

    gc.disable()
    try:
        old = made(tmp_path)
        gc.collect()
        own = Own(old.pool, old.dialect, old.url)
        gc.collect(0)
        young, youngest = made(tmp_path), made(tmp_path)
        options = young.execution_options(isolation_level="AUTOCOMMIT")
        assert hooked.engines() == [old, own, young, youngest]
    finally:
        gc.enable()
    del options


def test_nobody_looks_for_engines_where_there_can_be_none() -> None:
    """A program that installs before it makes an engine does not pay for the size of its heap."""
    program = """
import gc
gc.get_referrers = gc.get_objects = lambda *_: 1 / 0
import sessionwatch
watch = sessionwatch.install(mode="telemetry", log=False)
from sqlalchemy import create_engine
engine = create_engine("sqlite://")
engine.connect().close()
print(watch.status()["internal_errors"], len(watch._pools._stats))
"""
    environ = {"SESSIONWATCH_TESTING": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("{} 1\n", 0), done.stderr


def test_number_of_names_is_bounded(tmp_path: Path, watch: Watch, readings: Readings) -> None:
    """A program that makes an engine a request gets no series a request."""
    engines = [made(tmp_path, pool_logging_name=f"pool {number}") for number in range(120)]
    for engine in engines:
        engine.connect().close()
    values = readings.values(COUNT)
    assert len(values) == 101
    assert values["other", "idle"] == 20
    for engine in engines:
        engine.dispose()


def test_samples_of_pools_that_are_gone(tmp_path: Path, watch: Watch, readings: Readings) -> None:
    """They are told, and nothing is kept of such a pool."""
    told: dict[str, Any] = {USE: {}, WAIT: {}}  # an old SDK leaves out a series that took nothing since the last time

    def look() -> None:
        for name, values in told.items():
            values |= readings.values(name)

    for number in range(5):
        engine = made(tmp_path, pool_logging_name=f"tenant {number}")
        engine.connect().close()
        engine.dispose()
        del engine
        gc.collect()
        if number == 3:
            look()
            assert len(told[USE]) == 4
    look()
    assert set(watch.tracker.connections) == {"tenant 4"}
    assert told[WAIT] == told[USE] == {(f"tenant {number}",): 1 for number in range(5)}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql+psycopg://user:secret@db.example:5433/shop", "db.example:5433/shop"),
        ("postgresql+psycopg://user:secret@db.example/shop?password=secret", "db.example/shop"),
        ("postgresql+psycopg://user:secret@/shop?host=a:1&host=b:2", "a:1,b:2/shop"),
        ("postgresql+psycopg://", "postgresql"),
        ("sqlite:////home/somebody/app.db", "sqlite/app.db"),
        ("sqlite://", "sqlite/:memory:"),
        ("sqlite:///file:app.db?mode=ro&uri=true", "sqlite/file:app.db"),
    ],
)
def test_name_of_a_pool_has_no_credentials(url: str, name: str) -> None:
    """Host, port and database, as the conventions ask for where a pool has no name."""
    engine = create_engine(url)
    assert name_of(engine, engine.pool) == name
    named = create_engine(url, pool_logging_name="orders")
    assert name_of(named, named.pool) == "orders"


def test_other_modes_leave_pools_alone(tmp_path: Path, installed: Callable[..., Watch], readings: Readings) -> None:
    """Development and tests do not pay for them."""
    before = vars(Engine)["raw_connection"]
    installed("log")
    assert vars(Engine)["raw_connection"] is before
    engine = made(tmp_path)
    with Session(engine) as session:
        session.execute(text("SELECT 1"))
    assert readings.values(COUNT) == {}
    engine.dispose()


def test_undo_is_exact(tmp_path: Path, installed: Callable[..., Watch]) -> None:
    """The engine class, the events of pools, and the pools themselves."""
    engine = made(tmp_path)

    def snapshot() -> Any:
        keys = {
            key: set(value) for key, value in registry._key_to_collection.items() if key[1] in ("checkin", "detach")
        }
        listeners = [list(getattr(Pool.dispatch, name)._clslevel.get(Pool, ())) for name in ("checkin", "detach")]
        return dict(vars(Engine)), keys, listeners, set(vars(engine.pool))

    before = snapshot()
    watch = installed()
    engine.connect().close()
    engine.dispose()
    out = engine.connect()
    assert snapshot() != before
    watch.uninstall()
    assert snapshot() == before
    out.close()
    engine.dispose()


def test_a_host_listener_stays(tmp_path: Path, installed: Callable[..., Watch]) -> None:
    """The program's own listener on a pool hears every return, with us and after us."""
    engine, heard = made(tmp_path), []
    event.listen(engine, "checkin", lambda *_: heard.append(1))
    watch = installed()
    engine.connect().close()
    watch.uninstall()
    engine.connect().close()
    assert len(heard) == 2
    engine.dispose()


def test_collected_connection_is_back(tmp_path: Path, watch: Watch, readings: Readings) -> None:
    """A raw connection that was dropped is returned by the collector."""
    engine = made(tmp_path)
    raw = engine.raw_connection()
    assert readings.values(COUNT) == {("sqlite/a.db", "used"): 1}
    del raw
    gc.collect()
    assert readings.values(COUNT) == {("sqlite/a.db", "idle"): 1}
    engine.dispose()
