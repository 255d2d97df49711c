"""Connection pools, as their engines use them: who waits, for how long, and what is out.

Seen from outside: around `Engine.raw_connection`, and by the pool's own event of a return. Nothing here takes a lock
of a pool.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import pool as pools
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import Pool

from ..tracker import KEY, Tracker
from .patch import listen, unseen

COUNT, MAX, PENDING, TIMEOUTS, WAIT, USE = (
    f"db.client.connection.{name}" for name in ("count", "max", "pending_requests", "timeouts", "wait_time", "use_time")
)
_NAMES = 100  # pools with a name of their own
OTHER = "other"


class PoolStats:
    """One engine's pool, and the ones that take its place after a ``dispose()``."""

    __slots__ = ("__weakref__", "name", "pending", "pool", "timeouts", "used")

    def __init__(self, name: str) -> None:
        self.name = name
        self.pool: Callable[[], Any] = lambda: None  # a weak reference
        self.used = self.pending = self.timeouts = 0


class Pools:
    """Every pool that was used since the installation; engines and pools are held weakly."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._stats: WeakKeyDictionary[Any, PoolStats] = WeakKeyDictionary()  # by dialect: each engine has its own
        self._marked: WeakSet[Any] = WeakSet()
        self._out: dict[int, tuple[float, PoolStats]] = {}  # by id of the pool's record: since when

    def of(self, engine: Any, pool: Any) -> PoolStats:
        """The numbers of an engine's pool; cheap from the second time on."""
        stats: PoolStats | None = pool.__dict__.get(KEY)
        if stats is None:
            stats = self._stats.get(engine.dialect)
            if stats is None:
                taken = {other.name for other in list(self._stats.values())}
                stats = self._stats[engine.dialect] = PoolStats(_free(name_of(engine, pool), taken))
            stats.pool = weakref.ref(pool)
            pool.__dict__[KEY] = stats
            self._marked.add(pool)
        return stats

    def lent(self, stats: PoolStats, proxy: Any, waited: float, now: float) -> None:
        """A connection was handed out; some pools hand out one that is out already."""
        key = id(getattr(proxy, "_connection_record", None))
        if key not in self._out:
            stats.used += 1
            self._out[key] = now, stats
        self.tracker.sampled(stats.name, WAIT, waited)

    def returned(self, record: Any) -> None:
        """It came back, or left the pool for good."""
        since, stats = self._out.pop(id(record), (0.0, None))
        if stats is not None:  # else it went out before the installation
            stats.used -= 1
            self.tracker.sampled(stats.name, USE, perf_counter() - since)

    def read(self, name: str) -> dict[tuple[str, ...], int]:
        """The numbers of one metric, by pool, and by pool and state."""
        found: dict[tuple[str, ...], int] = {}
        for stats in list(self._stats.values()):
            for key, value in _values(name, stats).items():
                found[stats.name, *key] = found.get((stats.name, *key), 0) + value
        return found

    def renew(self) -> None:
        """In a forked child: who waits, and what is out, is the parent's."""
        self._out.clear()
        for stats in list(self._stats.values()):
            stats.used = stats.pending = stats.timeouts = 0

    def close(self) -> None:
        """Leave the pools as they were."""
        for pool in list(self._marked):
            pool.__dict__.pop(KEY, None)
        self._marked.clear()
        self._out.clear()
        for stats in list(self._stats.values()):
            stats.used = stats.pending = 0


def _values(name: str, stats: PoolStats) -> dict[tuple[str, ...], int]:
    pool = stats.pool()
    if name == TIMEOUTS:
        return {(): stats.timeouts}
    if name == PENDING:
        return {(): max(0, stats.pending)}
    if name == COUNT:
        return {("used",): max(0, stats.used), ("idle",): _idle(pool, stats.used)}
    limit = _limit(pool)
    return {(): limit} if limit is not None else {}


def _idle(pool: Any, used: int) -> int:
    """Open connections that nobody uses. Private, and only read: what is public takes the lock of the queue."""
    if isinstance(pool, pools.QueuePool):
        queue = vars(pool._pool).get("_queue") if pool._is_asyncio else pool._pool  # made by its first use, in its loop
        return _connected(getattr(queue, "_queue" if pool._is_asyncio else "queue", ()))
    if isinstance(pool, pools.SingletonThreadPool):
        return max(0, _connected(pool._all_conns) - used)
    if isinstance(pool, pools.StaticPool | pools.AssertionPool):
        return max(0, _connected([vars(pool).get("connection") or vars(pool).get("_conn")]) - used)
    return 0


def _connected(records: Iterable[Any]) -> int:
    """How many of a pool's records hold a connection; one that was detached or invalidated does not."""
    return sum(getattr(record, "dbapi_connection", None) is not None for record in list(records))


def _limit(pool: Any) -> int | None:
    """How many connections a pool may have open; None without a limit."""
    if isinstance(pool, pools.QueuePool):
        size, overflow = pool.size(), pool._max_overflow
        return size + overflow if size > 0 and overflow >= 0 else None
    if isinstance(pool, pools.SingletonThreadPool):
        return int(pool.size)
    return 1 if isinstance(pool, pools.StaticPool | pools.AssertionPool) else None


def name_of(engine: Any, pool: Any) -> str:
    """What the user called the pool, else host:port/database; never a user's name or a password."""
    given = getattr(pool, "logging_name", None)
    if given:
        return str(given)
    url = engine.url
    host, port, database = url.host or url.query.get("host"), url.port, url.database or ""
    if url.get_backend_name() == "sqlite":
        database = os.path.basename(database.partition("?")[0]) or ":memory:"
    host = ",".join(host) if isinstance(host, tuple) else host
    where = f"{host or url.get_backend_name()}{f':{port}' if port else ''}"
    return f"{where}/{database}" if database else where


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number where a living engine has it already."""
    if len(taken) >= _NAMES:
        return OTHER
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free


def patch_raw_connection(kept: Pools) -> Callable[[Any], Any]:
    """``Engine.raw_connection``: one call a checkout, of every kind of pool, by sync and async engines."""
    tracker = kept.tracker

    def make(original: Any) -> Any:
        def raw_connection(self: Any) -> Any:
            stats = None
            if tracker.active:
                try:
                    stats = kept.of(self, self.pool)
                except Exception:
                    tracker.failed("Engine.raw_connection")
            if stats is None:
                return original(self)
            stats.pending += 1
            started = perf_counter()
            try:
                lent = original(self)
            except BaseException as error:
                if isinstance(error, PoolTimeout):
                    stats.timeouts += 1
                unseen(error)
                raise
            finally:
                stats.pending -= 1
            now = perf_counter()
            try:
                kept.lent(stats, lent, now - started, now)
            except Exception:
                tracker.failed("Engine.raw_connection")
            return lent

        return raw_connection

    return make


def follow(kept: Pools) -> Callable[[], None]:
    """Listen for connections that come back; returns the undo."""

    def returned(connection: Any, record: Any) -> None:
        try:
            kept.returned(record)
        except Exception:
            kept.tracker.failed("the return of a connection")

    undo = [listen(Pool, name, returned) for name in ("checkin", "detach")]

    def stop() -> None:
        for step in undo:
            step()
        kept.close()

    return stop
