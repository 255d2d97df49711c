"""Core connections (``engine.connect()``) that wrote in a transaction which SQLAlchemy began by itself.

A connection that never writes so is left as it is. The first such write gives it a ``close`` of its own, which
says what the close discards; a session's connections, and what runs inside ``begin()``, are never touched.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any

from ..border import settle
from ..frames import callsite
from ..frames.callsite import Caller, looked_at
from ..record.events import ConnectionEnded
from ..record.life import Entry, SessionRecord, recognised
from ..units.scope import current_unit
from .database_errors import handled_around
from .writes import driver_commits, is_over, note, summarised

if TYPE_CHECKING:
    from sqlalchemy import Connection, RootTransaction

    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message
BEGAN, HELD = "_sessionwatch_began", "_sessionwatch_held"  # on a connection


class Held:
    """What one connection wrote in one transaction. It has of a session's record what notes writes."""

    session_id = 0
    told_of_transaction = False
    within: Any = MappingProxyType({})
    nowhere = within
    kind = "sync"
    tracker = None  # its rows are no session's: nobody counts them
    wrote, count_rows, end_writes = SessionRecord.wrote, SessionRecord.count_rows, SessionRecord.end_writes

    def __init__(self, connection: Connection, transaction: RootTransaction) -> None:
        self.owned = (id(connection),)
        self.levels: tuple[dict[Any, Entry], ...] = ()
        self.written: Any = {}
        self.temporary: frozenset[str] = frozenset()
        self.over = False
        self.exiting: tuple[Caller, BaseException | None] | None = None  # taken before close() moved to another task
        self.connection = weakref.ref(connection)
        self.transaction = weakref.ref(transaction, self._ended)
        unit = current_unit()
        self.unit = unit.name if unit is not None else None
        error = sys.exception()
        self.errors = (recognised(error),) if error is not None else ()
        if connection.dialect.is_async:
            self.kind = "async"

    def _ended(self, _: object) -> None:
        if self.connection() is not None:  # else both were collected at once
            self.over = True

    def writes(self) -> Any:
        """What is lost if the connection goes now."""
        transaction = self.transaction()
        if self.over or (transaction is not None and not transaction.is_active):
            return ()
        return tuple(summarised((entry for level in self.levels for entry in level.values()), self.temporary))


class Connections:
    """The Core connections of one installation that wrote and are not closed."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._open: dict[int, tuple[weakref.ref[Any], Held]] = {}  # by the id() of the connection

    def note(self, connection: Any, context: Any, result: Any, frame: FrameType) -> None:
        """A statement was run on a connection that belongs to no session."""
        transaction = connection.get_transaction()
        began = connection.__dict__.get(BEGAN)
        if began is None or began() is not transaction or connection.in_nested_transaction():
            return
        held = connection.__dict__.get(HELD)
        if held is None or held.transaction() is not transaction:
            held = Held(connection, transaction)
        note(connection, held, context, result, None, frame)
        held.within = Held.nowhere  # the transaction would hold the connection, and is known already
        if any(held.levels) and held is not connection.__dict__.get(HELD):
            self._keep(connection, held)

    def _keep(self, connection: Connection, held: Held) -> None:
        number, reference = id(connection), weakref.ref(connection, lambda _: self._collected(number))
        self._open[number] = reference, held
        connection.__dict__[HELD] = held
        connection.__dict__["close"] = lambda: self._close(reference)

    def _close(self, reference: weakref.ref[Any]) -> None:
        connection: Any = reference()
        if connection is None:  # somebody kept the method alone
            return
        original = type(connection).close
        try:
            event = self._ending(connection, sys._getframe(1))
            original(connection)
            raised = self.tracker.emit(event) if event is not None else None
            if raised is not None:
                raise raised
        except BaseException as crossed:
            late = settle(crossed, original, self.tracker, "Connection.close")
            if late is None:
                raise
            late(connection)

    def _ending(self, connection: Connection, frame: FrameType) -> ConnectionEnded | None:
        """What there is to tell of a close."""
        with self.tracker.guarded("Connection.close"):
            held = self._let_go(connection)
            if held is not None and self.tracker.active:
                who, error = held.exiting or (callsite.caller(frame), sys.exception())
                leaving = bool(error is not None and recognised(error) not in held.errors) or bool(handled_around())
                if not leaving and not driver_commits(connection) and not is_over(connection, held.told_of_transaction):
                    return _event(held, "closed", who)
        return None

    def _let_go(self, connection: Connection) -> Held | None:
        connection.__dict__.pop("close", None)
        held: Held | None = connection.__dict__.pop(HELD, None)
        self._open.pop(id(connection), None)
        return held

    def _collected(self, number: int) -> None:
        found = self._open.pop(number, None)
        if found is not None and self.tracker.active and not sys.is_finalizing():
            notes = self.tracker.notes
            with notes.by_collector("collected"):
                event = _event(found[1], "collected", None)
                if event is not None:
                    notes.note(lambda: self.tracker.emit(event))

    def at_exit(self) -> None:
        """Report those that are open when the program ends."""
        for reference, held in list(self._open.values()):
            connection = reference()
            event = _event(held, "exit", None) if connection is not None else None
            if event is not None:
                self.tracker.emit(event)

    def forget(self) -> None:
        """Give every connection its own ``close`` back."""
        for reference, _ in list(self._open.values()):
            connection = reference()
            if connection is not None:
                self._let_go(connection)
        self._open.clear()


def _event(held: Held, how: Any, who: Caller | None) -> ConnectionEnded | None:
    writes = held.writes()
    if not writes:
        return None
    ended = looked_at(who[0]) if who is not None else None
    return ConnectionEnded(how, ended, who is None or who[1], writes, held.kind, held.unit)  # type: ignore[arg-type]


def patch_autobegin(connections: Connections) -> Callable[[Any], Any]:
    """``Connection._autobegin``: the transactions that nobody asked for. A session begins its own.

    Private: a transaction does not say who began it.
    """

    def make(original: Any) -> Any:
        def _autobegin(self: Any) -> None:
            try:
                original(self)
                transaction = self.get_transaction()
                if transaction is not None:
                    self.__dict__[BEGAN] = weakref.ref(transaction)
            except BaseException as crossed:
                late = settle(crossed, original, connections.tracker, "Connection._autobegin")
                if late is None:
                    raise
                late(self)

        return _autobegin

    return make


def patch_aexit(connections: Connections) -> Callable[[Any], Any]:
    """``AsyncConnection.__aexit__``: it closes in a task of its own, which has neither the frame nor the exception."""

    def make(original: Any) -> Any:
        async def __aexit__(self: Any, type_: Any, value: Any, traceback: Any) -> Any:  # noqa: N807
            try:
                with connections.tracker.guarded("AsyncConnection.__aexit__"):
                    held = getattr(self.sync_connection, "__dict__", {}).get(HELD)
                    if held is not None:
                        held.exiting = callsite.caller(sys._getframe(1)), value
                return await original(self, type_, value, traceback)
            except BaseException as crossed:
                late = settle(crossed, original, connections.tracker, "AsyncConnection.__aexit__")
                if late is None:
                    raise
                return await late.awaited(self, type_, value, traceback)

        return __aexit__

    return make
