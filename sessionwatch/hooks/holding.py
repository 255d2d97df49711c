"""Who holds a transaction: what the watchdog is told, and the report of holders where a pool times out."""

from __future__ import annotations

import sys
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable
from threading import get_ident
from types import BuiltinFunctionType, FrameType
from typing import TYPE_CHECKING, Any

from ..border import patch_after, settle
from ..frames import callsite
from ..frames.tasks import current_greenlet
from ..record.allowances import active_allowances
from ..record.key import KEY
from .private import DO_GET
from .reading import name_of, read
from .writes import driver_commits

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..record.life import SessionRecord
    from ..record.tracker import Tracker
    from ..record.watchdog import Watchdog

__tracebackhide__ = True  # pytest: the story is in the message
_NATIVE = isinstance(get_ident, BuiltinFunctionType)  # not patched: it tells the threads from each other


def begun(record: SessionRecord, reference: Any, watchdog: Watchdog, connection: Connection) -> None:
    """A session's transaction took a connection: from now on it keeps others from something. Each one pays for this."""
    engine = connection.engine
    if connection.get_execution_options() or read.asked_at_connect(engine.dialect) is not None:
        transactional = not (read.autocommits(connection) or driver_commits(connection))
    else:
        transactional = not driver_commits(connection)
    if record.held is not None:  # another database
        *known, pools, _ = record.held
        record.held = (*known, (*pools, engine.pool), transactional)
        return
    task = name = None
    if _get_running_loop() is not None:
        task, name = _task()
    elif "gevent" in sys.modules or "eventlet" in sys.modules:
        task = _greenlet()
    record.held = (
        watchdog, watchdog.clock(), get_ident(), callsite.thread_name(), task, name, active_allowances(),
        (engine.pool,), transactional,
    )  # fmt: skip
    record.began_at, record.unplaced = None, True
    watchdog.holdings[record.number] = reference
    if watchdog.parked:
        watchdog.wake()


def _greenlet() -> Any:
    """A weak reference to the greenlet in which gevent or eventlet run this; None in a plain thread."""
    running = current_greenlet()
    if running is None or (running.parent is None and _NATIVE):
        return None
    return weakref.ref(running)


def describe(connection: Connection) -> str:
    """What to call a connection that somebody waits in."""
    reference = connection.__dict__.get(KEY)
    record = reference() if reference is not None else None
    if record is not None:
        return f"session {record.label}"
    return f"another connection, of {name_of(connection.engine, connection.engine.pool)}"


def _task() -> tuple[Any, str | None]:
    """A weak reference to the running asyncio task, and its name; None outside of one."""
    task = sys.modules["asyncio"].current_task()
    return (weakref.ref(task), task.get_name()) if task is not None else (None, None)


def patch_connection(tracker: Tracker) -> Callable[[Any], Any]:
    """``Session.connection``: who asks for the connection begins the transaction, perhaps long before a statement."""

    def make(original: Any) -> Any:
        def connection(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                found = original(self, *args, **kwargs)
                try:
                    record = self.__dict__.get(KEY)
                    if record is not None and record.unplaced:
                        record.begins_at(callsite.site(sys._getframe()))  # our own: in a greenlet it is the only one
                except Exception:
                    tracker.failed("Session.connection")
                return found
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "Session.connection")
                if late is None:
                    raise
                return late(self, *args, **kwargs)

        return connection

    return make


def patch_fetch(tracker: Tracker) -> Callable[[Any], Any]:
    """``fetchmany`` of the cursor strategies: one call a chunk, the sign that a streamed result moves."""

    def make(original: Any) -> Any:
        def fetch(self: Any, result: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                rows = original(self, result, *args, **kwargs)
                try:
                    reference = result.connection.__dict__.get(KEY)
                    record = reference() if reference is not None else None
                    if record is not None and record.held is not None:
                        record.fetched(bool(rows if rows is not None else read.buffer(self)))
                except Exception:
                    tracker.failed("fetchmany")
                return rows
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "fetchmany")
                if late is None:
                    raise
                return late(self, result, *args, **kwargs)

        return fetch

    return make


def _name(pool: Any) -> str:
    """As the metrics have it, else the one that the user gave it."""
    return str(getattr(vars(pool).get(KEY), "name", None) or getattr(pool, "logging_name", None) or "(unnamed)")


def patch_timeout(tracker: Tracker) -> Callable[[Any], Any]:
    """``TimeoutError.__init__``: a pool that has no connection left says so by this error only."""

    def made(_: None, frame: FrameType, error: Any, *args: Any, **kwargs: Any) -> None:
        if tracker.active and frame.f_code.co_name == DO_GET.name:
            pool = frame.f_locals.get("self")
            tracker.when_pool_ran_dry(error, pool, _name(pool))

    return patch_after(tracker, "TimeoutError.__init__", made)
