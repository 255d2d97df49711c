"""Connection pools, as their engines use them: who waits, for how long, and what is out.

Seen from outside: around `Engine.raw_connection`, and by the pool's own event of a return. Nothing here takes a lock
of a pool.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Engine
from sqlalchemy import pool as pools
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import Pool

from ..border import settle, stops
from ..record.counts import MANY, Queue, queue
from ..record.key import KEY
from .patch import listen
from .reading import name_of, read, waiting

if TYPE_CHECKING:
    from ..record.tracker import Tracker

COUNT, MAX, IDLE_MAX, IDLE_MIN, PENDING, TIMEOUTS = (
    f"db.client.connection.{name}" for name in ("count", "max", "idle.max", "idle.min", "pending_requests", "timeouts")
)
_NAMES = 100  # pools with a name of their own
OTHER = "other"


class PoolStats:
    """One engine's pool, and the ones that take its place after a ``dispose()``."""

    __slots__ = ("__weakref__", "creations", "name", "pending", "pool", "timeouts", "uses", "waits")

    def __init__(self, name: str, waits: Queue, uses: Queue, creations: Queue) -> None:
        self.name = name
        self.pool: Callable[[], Any] = lambda: None  # a weak reference
        self.pending = self.timeouts = 0
        self.waits = waits  # seconds
        self.uses = uses
        self.creations = creations


class Pools:
    """Every pool of an engine; engines and pools are held weakly.

    A pool is known from its engine's making on, or from the installation on, so that its series are at zero before
    anything happens; at the latest from its first use on.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._stats: WeakKeyDictionary[Any, PoolStats] = WeakKeyDictionary()  # by dialect: each engine has its own
        self._marked: WeakSet[Any] = WeakSet()
        self.out: dict[int, tuple[float, PoolStats]] = {}  # by id of the pool's record: since when

    def of(self, engine: Engine) -> PoolStats:
        """The numbers of an engine's pool, which from now on keeps them itself."""
        pool = engine.pool
        stats = self._stats.get(engine.dialect)
        if stats is None:
            stats = self._stats[engine.dialect] = self._new(engine, pool)
        stats.pool = weakref.ref(pool)
        pool.__dict__[KEY] = stats
        self._marked.add(pool)
        return stats

    def _new(self, engine: Engine, pool: Pool) -> PoolStats:
        living, waiting = {stats.name for stats in list(self._stats.values())}, self.tracker.connections
        for name, queues in waiting.copy().items():
            if name not in living and not any(queues):
                del waiting[name]
        name = _free(name_of(engine, pool), living)
        return PoolStats(name, *waiting.setdefault(name, (queue(), queue(), queue())))

    def made(self, engine: Engine, frame: FrameType) -> None:
        """`create_engine` has made one."""
        self.of(engine)

    def connected(self, record: Any, frame: FrameType, seconds: float) -> None:
        """A pool has opened a connection, for its record of one."""
        stats = getattr(read.pool(record), "__dict__", {}).get(KEY)
        if stats is not None:
            stats.creations.append(seconds)

    def read(self, name: str) -> dict[tuple[str, ...], int]:
        """The numbers of one metric, by pool, and by pool and state."""
        found: dict[tuple[str, ...], int] = {}
        for stats in list(self._stats.values()):
            used = sum(one is stats for _, one in list(self.out.values())) if name == COUNT else 0
            for key, value in _values(name, stats, used).items():
                found[stats.name, *key] = found.get((stats.name, *key), 0) + value
        return found

    def renew(self) -> None:
        """In a forked child: who waits, and what is out, is the parent's."""
        self.out.clear()
        for stats in list(self._stats.values()):
            stats.pending = stats.timeouts = 0

    def close(self) -> None:
        """Leave the pools as they were."""
        for pool in list(self._marked):
            pool.__dict__.pop(KEY, None)
        self._marked.clear()
        self.out.clear()
        for stats in list(self._stats.values()):
            stats.pending = 0


def _values(name: str, stats: PoolStats, used: int) -> dict[tuple[str, ...], int]:
    pool = stats.pool()
    if name == TIMEOUTS:
        return {(): stats.timeouts}
    if name == PENDING:
        return {(): max(0, stats.pending)}
    if name == COUNT:
        return {("used",): used, ("idle",): _idle(pool, used)}
    if name == IDLE_MIN:
        return {(): 0}  # SQLAlchemy opens a connection when it is asked for one, and not before
    limit = _limit(pool) if name == MAX else _idle_limit(pool)
    return {(): limit} if limit is not None else {}


def _idle(pool: Pool, used: int) -> int:
    """Open connections that nobody uses."""
    if isinstance(pool, pools.QueuePool):
        return _connected(waiting(pool))
    if isinstance(pool, pools.SingletonThreadPool):
        return max(0, _connected(read.threads(pool)) - used)
    if isinstance(pool, pools.StaticPool | pools.AssertionPool):
        return max(0, _connected([vars(pool).get("connection") or read.only_one(pool)]) - used)
    return 0


def _connected(records: Iterable[Any]) -> int:
    """How many of a pool's records hold a connection; one that was detached or invalidated does not."""
    return sum(getattr(record, "dbapi_connection", None) is not None for record in list(records))


def _limit(pool: Pool) -> int | None:
    """How many connections a pool may have open; None without a limit."""
    if isinstance(pool, pools.QueuePool):
        size, overflow = pool.size(), read.overflow(pool)
        return size + overflow if size > 0 and overflow >= 0 else None
    if isinstance(pool, pools.SingletonThreadPool):
        return int(pool.size)
    return 1 if isinstance(pool, pools.StaticPool | pools.AssertionPool) else None


def _idle_limit(pool: Pool) -> int | None:
    """How many connections a pool keeps for later; None without a limit."""
    if isinstance(pool, pools.QueuePool):
        return pool.size() or None
    return 0 if isinstance(pool, pools.NullPool) else _limit(pool)


def engines() -> list[Engine]:
    """Every engine with a pool of its own that exists, the older ones first.

    None does before a database's dialect is imported. Else the collector says which objects refer to the class, at a
    third of what a look at each of them costs.
    """
    dialects = (*type.__subclasses__(Dialect), *type.__subclasses__(DefaultDialect))
    if all(one.__module__ == DefaultDialect.__module__ for one in dialects):
        return []
    kinds = [Engine]
    for kind in kinds:
        kinds += type.__subclasses__(kind)
    younger = {id(one): age for age in (1, 0) for one in gc.get_objects(age)}
    referring = [one for one in gc.get_referrers(*kinds) if any(type(one) is kind for kind in kinds)]
    referring.sort(key=lambda one: -younger.get(id(one), 2))  # each generation has the older ones first
    return [one for one in referring if "pool" in vars(one)]


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
    tracker, out = kept.tracker, kept.out

    def make(original: Any) -> Any:
        def raw_connection(self: Any) -> Any:
            try:
                stats = None
                if tracker.active:
                    try:
                        stats = self.pool.__dict__.get(KEY) or kept.of(self)
                    except Exception:
                        tracker.failed("Engine.raw_connection")
                if stats is None:
                    return original(self)
                stats.pending += 1
                started = perf_counter()
                try:
                    lent = original(self)
                except BaseException as error:
                    stats.pending -= 1
                    if isinstance(error, PoolTimeout):
                        stats.timeouts += 1
                    raise
                stats.pending -= 1
                now = perf_counter()
                try:
                    out.setdefault(id(read.pooled(lent)), (now, stats))  # some pools hand out one that is out already
                    stats.waits.append(now - started)
                    if len(stats.waits) >= MANY:  # each of the other times follows on one of these
                        tracker.when_grown()
                except Exception:
                    tracker.failed("Engine.raw_connection")
                return lent
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "Engine.raw_connection")
                if late is None:
                    raise
                return late(self)

        return raw_connection

    return make


def follow(kept: Pools) -> Callable[[], None]:
    """Listen for connections that come back, or leave their pool for good; returns the undo."""
    out = kept.out

    def returned(connection: object, record: object) -> None:
        try:
            lent = out.pop(id(record), None)
            if lent is not None:  # else it went out before the installation
                since, stats = lent
                stats.uses.append(perf_counter() - since)
        except BaseException as crossed:
            if stops(crossed, kept.tracker, "the return of a connection"):
                raise

    undo = [listen(Pool, name, returned) for name in ("checkin", "detach")]
    with kept.tracker.guarded("the pools that exist"):
        for engine in engines():
            kept.of(engine)

    def stop() -> None:
        for step in undo:
            step()
        kept.close()

    return stop
