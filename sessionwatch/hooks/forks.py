"""Connections that a forked child has from its parent.

The pool notes when each connection was opened, so that nothing has to be done there; in a process that
was never forked a statement pays for one look at a number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..border import settle
from ..frames import callsite
from ..record.events import InheritedConnection
from ..record.sql import summary
from .reading import read

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..record.life import SessionRecord
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message
WhenOpened = Callable[[Any, FrameType, float], None]  # a pool's record of a connection; seconds that it took to open


def inherited(
    tracker: Tracker, connection: Connection, record: SessionRecord | None, context: Any, frame: FrameType
) -> Exception | None:
    """A child is about to run a statement; what comes back is to be raised. Each connection is told once."""
    pooled = read.pooled(read.lent(connection))
    if pooled is None or not 0 < pooled.starttime < tracker.forked or pooled in tracker.inherited:
        return None
    tracker.inherited.add(pooled)
    if not tracker.active or (record is None and tracker.wants is not None) or _in_memory(connection):
        return None
    what = summary(context.statement) or "a statement"
    connected = tracker.connected.get(pooled)
    event = InheritedConnection(
        record, what, callsite.mark(frame), connected, tracker.parent, connection.dialect.is_async
    )
    return tracker.emit(event, record.allowances if record is not None else ())


def _in_memory(connection: Connection) -> bool:
    """An SQLite database in memory: the child's is a copy of its own."""
    database = connection.engine.url.database
    return connection.dialect.name == "sqlite" and (
        database in (None, "", ":memory:") or "mode=memory" in str(connection.engine.url)
    )


def noted(tracker: Tracker) -> WhenOpened:
    """Where a pool's connection was opened."""

    def note(pooled: Any, frame: FrameType, seconds: float) -> None:
        tracker.connected[pooled] = callsite.mark(frame)

    return note


def patch_connect(tracker: Tracker, opened: tuple[WhenOpened, ...]) -> Callable[[Any], Any]:
    """``_ConnectionRecord.__connect``: a pool has opened a connection. ``opened`` hears of it.

    Private: the public event would make every checkout look for listeners.
    """

    def make(original: Any) -> Any:
        def connect(self: Any) -> None:
            try:
                began = perf_counter()
                original(self)
                if tracker.active:
                    seconds = perf_counter() - began
                    for listener in opened:
                        try:
                            listener(self, sys._getframe(1), seconds)
                        except Exception:
                            tracker.failed("_ConnectionRecord.__connect")
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "_ConnectionRecord.__connect")
                if late is None:
                    raise
                late(self)

        return connect

    return make
