"""The hot path: what is noted around each statement, at the cursor."""

from __future__ import annotations

import sys
from asyncio import _get_running_loop
from collections.abc import Callable
from threading import get_ident
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection

from ..border import settle
from ..frames import callsite, whereabouts
from ..frames.callsite import _new
from ..frames.chain import called, past
from ..model import RawSite
from ..record.events import Blocked
from ..record.key import KEY
from ..record.sql import summary
from ..units.scope import starting
from .answers import commit_failed
from .callers import ran_at
from .database_errors import before_statement, failed
from .database_errors import refused as refused_after_failure
from .discards import unflushed
from .forks import inherited
from .overlaps import driver_refused, enter, session_in, sqlalchemy_refused
from .overlaps import tell as tell_overlap
from .reading import in_greenlet, read
from .writes import note

if TYPE_CHECKING:
    from ..record.life import SessionRecord
    from ..record.tracker import Tracker
    from .connections import Connections
    from .loops import Loops

_NOTEBOOKS = ("ipykernel.", "IPython.", "marimo.")
_IN_THREADS = ("fastapi", "starlette")  # call a plain function in a thread; Litestar does where it is told to
_COROUTINE = 0x80 | 0x200  # CO_COROUTINE, CO_ASYNC_GENERATOR
_EXECUTE = getattr(Connection.execute, "__code__", None)  # somebody may have replaced it
_DISTANCE = 5  # frames from `_outside` to that one, mostly
__tracebackhide__ = True  # pytest: the story is in the message


def patch_execute(
    tracker: Tracker,
    original: Any,
    *,
    sites: bool,
    entering: bool,
    stalls: float | None,
    forking: bool,
    originating: bool,
    core: Connections | None,
) -> Any:
    """``Connection._exec_single_context`` and ``_exec_insertmany_context``: one call a cursor statement.

    ``sites``: places are worth their cost; ``entering``: whether somebody is inside matters; ``stalls``: so does an
    event loop that waits this long, in seconds; ``forking``: so does a connection of the parent process;
    ``originating``: so does who writes first in a transaction. ``core``: where connections without a session matter.

    Private: any listener on Connection events costs every statement of the program 5 to 20 %.
    """

    def execute(self: Any, dialect: Any, context: Any, *args: Any) -> Any:
        entered, place, outer = False, None, None
        try:
            tracker.recent = None
            record: Any = reference() if (reference := getattr(self, KEY, None)) is not None else None
            if forking and tracker.forked:
                _in_child(tracker, self, record, context, sys._getframe(1))
            if record is not None and (record.inside is not None or record.failure is not None):
                _before(tracker, record, context, sys._getframe(1))
            if entering and record is not None and record.inside is None:
                record.inside = sys._getframe()
                entered = True
                if record.unplaced:
                    place = _begins(tracker, record, outer := past(_outside()))
            started = perf_counter() if stalls is not None and not dialect.is_async and _get_running_loop() else 0.0
            result = original(self, dialect, context, *args)
            if entered:
                record.inside = None
                if record.held is not None:
                    record.active = record.held[0].clock()
            if record is not None and record.began is not None:
                record.statements += 1
                record.last = context.statement
                if sites:
                    place = _placed(tracker, self, record, place, outer := outer or past(_outside()))
                if context.is_crud or context.is_text or context.isddl or getattr(context.compiled, "ctes", None):
                    note(self, record, context, result, place, outer or _outside())
                    if record.levels:
                        _wrote(tracker, id(self), record, place, outer, originating)
            elif reference is None and core is not None and (context.is_crud or context.is_text or context.isddl):
                _core(tracker, core, self, context, result, sys._getframe(1))
            if started and stalls is not None and (took := perf_counter() - started) >= stalls:
                _stalled(tracker, self, record, context, took, sys._getframe(1))
            return result
        except BaseException as crossed:
            if entered:
                record.inside = None
                with tracker.guarded("Connection._exec_context"):
                    _broken_off(record)
            if (late := settle(crossed, original, tracker, "Connection._exec_context")) is None:
                raise
            return late(self, dialect, context, *args)

    return whereabouts.runs_statements(execute)


def _outside() -> FrameType:
    """The frame from which to look for who runs a statement: mostly three of SQLAlchemy's lie between a connection's
    ``execute()`` and us, and to walk over them is dearer than to look whether it is so.
    """
    try:
        frame = sys._getframe(_DISTANCE)
        if frame.f_code is _EXECUTE:
            return frame
    except ValueError:  # there are not that many
        pass
    return sys._getframe(2)


def _broken_off(record: SessionRecord) -> None:
    """A statement failed."""
    if record.held is not None:
        record.active = record.held[0].clock()


def _wrote(
    tracker: Tracker,
    connection: int,
    record: SessionRecord,
    place: RawSite | None,
    frame: FrameType | None,
    originating: bool,
) -> None:
    """Note which connection has uncommitted writes and, if ``originating``, the place of the transaction's first."""
    if connection not in (writers := tracker.writers) and len(writers) < 2:
        writers.add(connection)
    if originating and record.origin is None:
        record.origin = record.newest or called(callsite.marked(place), frame)


def _placed(
    tracker: Tracker, connection: Any, record: SessionRecord, place: RawSite | None, frame: FrameType
) -> RawSite | None:
    """Note where a statement was run: for the session, for what it wrote and for what it loads."""
    if place is None:
        code = frame.f_code
        known = code.co_filename in callsite._users
        place = _new(RawSite, (code, frame.f_lasti)) if known else callsite.site(frame)
    if place is None or record.exiting is not None or place.code.co_filename not in callsite._users:
        place = ran_at(record, place)
    record.last_site = place
    if not any(read.has_events(connection)):
        tracker.recent = get_ident(), place
    return place


def _core(tracker: Tracker, core: Connections, connection: Any, context: Any, result: Any, frame: FrameType) -> None:
    """The same for a connection without a session."""
    try:
        if tracker.active and tracker.wants is None:
            core.note(connection, context, result, frame)
    except Exception:
        tracker.failed("Connection._exec_context")


def _begins(tracker: Tracker, record: SessionRecord, frame: FrameType) -> RawSite | None:
    """Note, and return, the place of the transaction's first statement, which may run for long, or fail."""
    try:
        code = frame.f_code
        place: RawSite | None
        if code.co_filename in callsite._users:  # nearly always: `frame` is as of `past`
            place = _new(RawSite, (code, frame.f_lasti))
        else:
            place = callsite.site(frame)
            if place is None or place.code.co_filename not in callsite._users:
                place = ran_at(record, place)
        record.began_at, record.unplaced = place, False
        return place
    except Exception:
        tracker.failed("Connection._exec_context")
    return None


def _before(tracker: Tracker, record: SessionRecord, context: Any, frame: FrameType) -> None:
    """What is to be said before a statement is tried; raises what is to be raised."""
    error: Exception | None = None
    try:
        if record.inside is not None:
            did = f"ran {summary(context.statement) or 'a statement'} in a session"
            event = enter(tracker, record, did, frame)
            error = tell_overlap(tracker, event) if event is not None else None
        if record.failure is not None and error is None:
            error = before_statement(tracker, record, context, frame)
    except Exception:
        tracker.failed("Connection._exec_context")
    if error is not None:
        raise error


def _in_child(tracker: Tracker, connection: Any, record: Any, context: Any, frame: FrameType) -> None:
    """The same in a forked process."""
    error: Exception | None = None
    try:
        error = inherited(tracker, connection, record, context, frame)
    except Exception:
        tracker.failed("Connection._exec_context")
    if error is not None:
        raise error


def _stalled(tracker: Tracker, connection: Any, record: Any, context: Any, seconds: float, frame: FrameType) -> None:
    """Report a statement that held up an event loop; raises what is to be raised, once it has run."""
    error: Exception | None = None
    try:
        server = starting.get()
        if server is not None and not server.over:
            return  # the loop serves nobody yet
        if tracker.active and (record is not None or tracker.wants is None) and _holds_up(connection, frame):
            what = summary(context.statement) or "a statement"
            event = Blocked(record, callsite.mark(frame), what, seconds * 1000, *_coroutine(frame))
            error = tracker.emit(event, record.allowances if record is not None else ())
    except Exception:
        tracker.failed("Connection._exec_context")
    if error is not None:
        raise error


def _coroutine(frame: FrameType) -> tuple[RawSite | None, bool]:
    """The user's async function that a statement runs in; whether its caller calls a plain function in a thread."""
    found: RawSite | None = None
    for outer in callsite.stack(frame):
        kind = callsite.kind_of(outer)
        if found is not None and kind in (callsite.USER, callsite.LIBRARY):
            module = str(outer.f_globals.get("__name__", ""))
            return found, kind == callsite.LIBRARY and module.partition(".")[0] in _IN_THREADS
        if found is None and kind == callsite.USER and outer.f_code.co_flags & _COROUTINE:
            found = callsite.site(outer)
    return found, False


def _holds_up(connection: Any, frame: FrameType) -> bool:
    """Whether a loop is really kept from other work.

    Not inside of SQLAlchemy's greenlet; not for what an engine asks its first connection; not in a
    notebook, where a loop runs around every cell and waits for it.
    """
    if in_greenlet() or not read.may_begin(connection):
        return False
    names = (str(outer.f_globals.get("__name__", "")) for outer in callsite.stack(frame))
    return not any(name.startswith(_NOTEBOOKS) for name in names)


def patch_error(
    tracker: Tracker, *, overlaps: bool, failures: bool, late: bool, loops: Loops | None
) -> Callable[[Any], Any]:
    """``Connection._handle_dbapi_exception``: every error of the driver, also while rows are fetched.

    Private: the public event is an event of the dialect, which pays for it with each statement. ``loops``: those of
    the pools' connections, where somebody asks.
    """

    def make(original: Any) -> Any:
        def _handle_dbapi_exception(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                pooled = None
                if loops is not None:
                    with tracker.guarded("Connection._handle_dbapi_exception"):
                        pooled = loops.holds(self)
                try:
                    return original(self, *args, **kwargs)
                except BaseException as error:
                    with tracker.guarded("Connection._handle_dbapi_exception"):
                        noted(self, args, error, sys._getframe(1), pooled)
                    raise
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "Connection._handle_dbapi_exception")
                if late is None:
                    raise
                return late(self, *args, **kwargs)

        return _handle_dbapi_exception

    def noted(connection: Any, args: tuple[Any, ...], error: BaseException, frame: FrameType, pooled: Any) -> None:
        reference = connection.__dict__.get(KEY)
        record = reference() if reference is not None else None
        driver_error, statement, *_, context = args[:5]
        if loops is not None and pooled is not None:
            what = summary(statement) if isinstance(statement, str) else None
            loops.failed(pooled, record, what or "", error, frame)
        if record is None or not tracker.active:
            return
        if overlaps:
            driver_refused(tracker, connection, record, error, frame)
        if late:
            commit_failed(record, error, frame)
        if failures:
            failed(connection, record, driver_error, context, error, frame)
            if record.origin is not None and record.failure is not None:
                unflushed(record, record.failure, context)

    return make


def refusals(tracker: Tracker, *, overlaps: bool, failures: bool) -> Callable[[Any, FrameType], None]:
    """What to make of it where tasks overlap, or an error was swallowed.

    Its subclasses IllegalStateChangeError and PendingRollbackError are not all of the forms that this takes.
    """

    def refused(error: Any, frame: FrameType) -> None:
        session, did = session_in(frame)
        record = session.__dict__.get(KEY) if session is not None else None
        if record is None:
            return
        if did == "commit" and "inactive" in str(error):  # ended on the connection: the program is told that by this
            record.end_writes()
        if overlaps:
            sqlalchemy_refused(tracker, session, record, error, did, frame)
        if failures:
            refused_after_failure(tracker, record, error, frame, did)

    return refused
