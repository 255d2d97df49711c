"""Two sessions on one connection of the driver's: a rollback or commit of the one is a rollback or commit of both.

Only pools that hand one connection to several at once are looked at: their dialects get a ``do_rollback`` and a
``do_commit`` of their own. All other engines are left as they are.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection, Transaction
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from ..border import settle
from ..frames import callsite
from ..record.events import SharedConnection
from ..record.key import KEY
from ..record.life import SessionRecord
from .private import COMMIT
from .reading import entries, live_sessions, read
from .rows import in_transaction
from .writes import SEVERAL, summarised

if TYPE_CHECKING:
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message
POOLS = (StaticPool, SingletonThreadPool)
_NEAR = 16  # frames between the dialect and the connection that it works for


class Sharing:
    """The dialects of one installation whose pools hand one connection to several."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._dialects: weakref.WeakSet[Any] = weakref.WeakSet()
        # a pool's record by the id() of the driver's connection that it has, and the other way round
        self._known: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def connected(self, pooled: Any, _: FrameType, __: float) -> None:
        """A pool has opened a connection, or ``creator=`` has returned the one that another record has already."""
        raw, pool = pooled.dbapi_connection, read.pool(pooled)
        other, before = self._known.get(id(raw)), self._numbers.get(pooled)
        if before is not None and self._known.get(before) is pooled:  # it has opened another one in its place
            self._known.pop(before, None)
        self._known[id(raw)], self._numbers[pooled] = pooled, id(raw)
        if isinstance(pool, POOLS) or (other is not None and other is not pooled and other.dbapi_connection is raw):
            self.watch(read.dialect(pool))

    def watch(self, dialect: Any) -> None:
        """Hear of each rollback and commit of this dialect from now on."""
        if dialect is None or "do_rollback" in vars(dialect) or "do_commit" in vars(dialect):
            return
        self._dialects.add(dialect)
        dialect.do_rollback = self._ends(dialect.do_rollback, self._rolls_back)
        dialect.do_commit = self._ends(dialect.do_commit, self._commits)

    def _ends(self, original: Any, ending: Callable[[Any, FrameType], None]) -> Callable[[Any], Any]:
        tracker = self.tracker

        def end(dbapi_connection: Any) -> Any:
            own, alone, writers = 0, False, tracker.writers
            try:
                if writers and tracker.active:
                    own = id(sys._getframe(1).f_locals.get("self"))
                    if own in writers and len(writers) == 1:  # nearly always; what it wrote is over then
                        alone = True
                        writers.discard(own)  # and nothing else: another thread may have written since
                    elif self._concerns_others(own) and _has_begun(dbapi_connection):
                        with tracker.guarded("Dialect.do_rollback"):
                            ending(dbapi_connection, sys._getframe(1))
                return original(dbapi_connection)
            except BaseException as crossed:
                if alone:
                    writers.add(SEVERAL)
                late = settle(crossed, original, tracker, "Dialect.do_rollback")
                if late is None:
                    raise
                return late(dbapi_connection)

        return end

    def _rolls_back(self, fairy: Any, frame: FrameType) -> None:
        acting, did = _acting(frame)
        for record, written in _writers(fairy, acting):
            event = _event("undone", record, acting, "closed" if did == "close" else "rolled back", frame, written)
            record.end_writes()
            record.waiting = self.tracker.emit(event, record.allowances) or record.waiting

    def _commits(self, fairy: Any, frame: FrameType) -> None:
        acting, _ = _acting(frame)
        for record, written in _writers(fairy, acting):
            record.published = _event("published", record, acting, "committed", frame, written)
            record.end_writes()

    def _concerns_others(self, own: int) -> bool:
        """Whether some session has uncommitted writes, and none on the connection that asks: nearly never.

        Where none has any, nobody is asked again until something is written.
        """
        writers = self.tracker.writers
        writers.clear()  # first of all: what another thread writes meanwhile counts
        for session in live_sessions():
            record = session.__dict__.get(KEY)
            if record is not None and record.levels and any(record.levels):
                writers.add(SEVERAL)
                if own not in record.owned:
                    return True
        return False

    def forget(self) -> None:
        """Give every dialect its own methods back."""
        for dialect in list(self._dialects):
            vars(dialect).pop("do_rollback", None)
            vars(dialect).pop("do_commit", None)
        self._dialects.clear()
        self._known.clear()
        self._numbers.clear()


def _has_begun(fairy: Any) -> bool:
    """Whether there is anything to end: SQLite's driver stores at the RELEASE of an outermost savepoint."""
    return in_transaction(getattr(fairy, "driver_connection", None))


def _acting(frame: FrameType) -> tuple[Any, str]:
    """The connection that the dialect works for, and what was asked for; None for what the collector found."""
    did = ""
    for _, outer in zip(range(_NEAR), callsite.stack(frame), strict=False):
        if not did and outer.f_code.co_name in ("close", "rollback"):
            did = outer.f_code.co_name
        one = outer.f_locals.get("self")
        if isinstance(one, Connection) and (did or outer.f_code.co_name == COMMIT.name):
            return one, did
        if isinstance(one, Transaction) and did:
            return one.connection, did
    return None, did


def _writers(fairy: Any, acting: Any) -> Iterator[tuple[SessionRecord, list[Any]]]:
    """The others on this connection that wrote and have not committed, and what."""
    raw = fairy.dbapi_connection
    for session in live_sessions():
        record = session.__dict__.get(KEY)
        if not isinstance(record, SessionRecord) or not any(record.levels):
            continue
        mine = {id(one) for one, *_ in entries(session) if one is not acting and _raw(one) is raw}
        written = [entry for level in record.levels for entry in level.values() if entry.connection in mine]
        if written:
            yield record, written


def _raw(connection: Connection) -> Any:
    fairy = read.lent(connection)
    return fairy.dbapi_connection if fairy is not None else None


def _event(
    kind: Any, record: SessionRecord, acting: Any, did: Any, frame: FrameType, written: list[Any]
) -> SharedConnection:
    reference = acting.__dict__.get(KEY) if acting is not None else None
    other = reference() if reference is not None else None
    mark = _mark(other, frame)
    return SharedConnection(kind, record, other, did, mark, tuple(summarised(written, record.temporary)))


def _mark(other: Any, frame: FrameType) -> Any:
    """Where the second ended its transaction; an AsyncSession closes in a task of its own."""
    exiting = other.exiting if other is not None else None
    return callsite.looked_at(exiting.caller[0]) if exiting is not None else callsite.mark(frame)


def ended(tracker: Tracker, record: SessionRecord) -> None:
    """The first one's transaction is over, and it did not commit what the second had committed."""
    event, record.published = record.published, None
    with tracker.guarded("after_transaction_end"):
        record.waiting = tracker.emit(event, record.allowances) or record.waiting
