"""Connections that were opened on one event loop and fail on another one.

Nothing is asked while all goes well: the pool notes the loop of each connection when it opens it, and the rest
happens where the driver has failed.
"""

from __future__ import annotations

import sys
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from ..border import settle
from ..frames import callsite
from ..record.events import ForeignLoop
from .database_errors import chain
from .reading import read

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..model import Mark
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message

# What asyncio and the drivers that depend on the loop (asyncpg, aiomysql, asyncmy) say of a foreign one.
_SAYINGS = ("different loop", "different event loop", "another operation is in progress", "Event loop is closed")
# And of the transport of a connection whose loop was closed under it.
_GONE = ("'NoneType' object has no attribute", "the handler is closed", "connection was closed in the middle")


class Opened(NamedTuple):
    """Where a pool's connection was opened, and on which event loop."""

    loop: weakref.ref[Any]
    mark: Mark


class Loops:
    """The loops of the pools' connections of one installation."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._opened: WeakKeyDictionary[Any, Opened] = WeakKeyDictionary()  # by the pool's record of a connection

    def connected(self, pooled: Any, frame: FrameType, _: float) -> None:
        """Note a connection that was just opened. On no loop it is a sync driver's."""
        self._opened.pop(pooled, None)
        loop = _get_running_loop()
        if loop is not None:
            self._opened[pooled] = Opened(weakref.ref(loop), callsite.mark(frame))

    def failed(self, pooled: Any, record: Any, statement: str, error: BaseException, frame: FrameType) -> None:
        """Report an error of the driver's, where it comes of the loop."""
        opened = self._opened.get(pooled) if pooled is not None else None
        running = _get_running_loop()
        if opened is None or running is None or opened.loop() is running or not self.tracker.active:
            return
        loop = opened.loop()
        closed = loop is None or loop.is_closed()
        if not _speaks_of_loops(error, closed) or (record is None and self.tracker.wants is not None):
            return
        event = ForeignLoop(record, statement, callsite.mark(frame), opened.mark, closed, error)
        self.tracker.emit(event, record.allowances if record is not None else ())

    def holds(self, connection: Connection) -> Any:
        """The pool's record of what a connection has from its pool, before SQLAlchemy gives it up."""
        return read.pooled(read.lent(connection))

    def pooled(self, dbapi_connection: Any) -> Any:
        """The pool's record of a connection of the driver's."""
        known = list(self._opened)
        return next((one for one in known if one.dbapi_connection is dbapi_connection), None)


def _speaks_of_loops(error: BaseException, closed: bool) -> bool:
    sayings = (*_SAYINGS, *_GONE) if closed else _SAYINGS
    return any(saying in str(one) for one in chain(error) for saying in sayings)


def patch_ping(loops: Loops) -> Callable[[Any], Any]:
    """``DefaultDialect._do_ping_w_event``: ``pool_pre_ping`` asks a connection before anybody has it."""

    def make(original: Any) -> Any:
        def _do_ping_w_event(self: Any, dbapi_connection: Any) -> Any:
            try:
                try:
                    return original(self, dbapi_connection)
                except BaseException as error:
                    with loops.tracker.guarded("DefaultDialect._do_ping_w_event"):
                        loops.failed(loops.pooled(dbapi_connection), None, "", error, sys._getframe(1))
                    raise
            except BaseException as crossed:
                late = settle(crossed, original, loops.tracker, "DefaultDialect._do_ping_w_event")
                if late is None:
                    raise
                return late(self, dbapi_connection)

        return _do_ping_w_event

    return make
