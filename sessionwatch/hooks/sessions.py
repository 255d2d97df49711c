"""Opening and transactions of a session; its end is in `closing`.

Each hook does its own work inside ``try``: an error of ours is counted and logged, and never reaches
the host. Findings are raised only before anything was begun, or after everything was released.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session

from ..border import settle, stops
from ..frames import callsite
from ..frames.chain import called
from ..record.events import SessionReused
from ..record.key import KEY
from ..record.life import WITH, SessionRecord
from ..units.scope import current_unit
from .reading import read
from .registries import lent_again

if TYPE_CHECKING:
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message

# -- opening ------------------------------------------------------------------------------------------


def patch_init(tracker: Tracker) -> Callable[[Any], Any]:
    """``Session.__init__``: one record a session."""

    def make(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            try:
                original(self, *args, **kwargs)
                if tracker.active:
                    try:
                        frame = sys._getframe(1)
                        if type(self) is not Session and frame.f_code.co_name == "__init__":  # a subclass's own
                            frame = maker(self, frame)
                        tracker.open(self, frame)
                    except Exception:
                        tracker.failed("Session.__init__")
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "Session.__init__")
                if late is None:
                    raise
                late(self, *args, **kwargs)

        return __init__

    def maker(session: Any, frame: FrameType) -> FrameType:
        """Skip a subclass's own ``__init__``: the session is made where that is called."""
        inits = {getattr(vars(base).get("__init__"), "__code__", None) for base in type(session).__mro__}
        while frame.f_code in inits and frame.f_back is not None:
            frame = frame.f_back
        return frame

    return make


def patch_enter(tracker: Tracker) -> Callable[[Any], Any]:
    """``Session.__enter__``: a session that is entered again begins a new scope."""

    def make(original: Any) -> Any:
        def __enter__(self: Any) -> Any:  # noqa: N807
            try:
                record = getattr(self, KEY, None)
                if type(record) is SessionRecord and record.closed_how is not None:
                    record.closed_scope = "hand"
                return original(self)
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "__enter__")
                if late is None:
                    raise
                return late(self)

        return __enter__

    return make


def patch_add(tracker: Tracker, originating: bool = False) -> Callable[[Any], Any]:
    """``Session.add``: the place of a transaction's first add, for objects that never get flushed."""

    def make(original: Any) -> Any:
        def add(self: Any, instance: Any, _warn: bool = True) -> None:
            try:
                original(self, instance, _warn=_warn)
                record = self.__dict__.get(KEY)
                if record is not None and record.added is None and record.closed_how is None:
                    try:
                        record.added = called(callsite.mark(sys._getframe(1)))
                        if originating and record.origin is None:
                            record.origin = record.added
                    except Exception:
                        tracker.failed("Session.add")
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "Session.add")
                if late is None:
                    raise
                late(self, instance, _warn)

        return add

    return make


def adopted(tracker: Tracker, session: Any) -> SessionRecord | None:
    """A record for a session that was opened before the installation."""
    record = tracker.adopt(session)
    if record is not None:
        record.holds(read.number(session), weakref.ref(session.identity_map), read.unflushed(session))
    return record


# -- transactions -------------------------------------------------------------------------------------


def patch_begin(tracker: Tracker, began: Callable[[SessionRecord], None] | None) -> Callable[[Any], Any]:
    """``SessionTransaction.__init__``: the first sign of work, before any connection is taken.

    ``began`` hears of a transaction that is not inside of another one.
    """

    def make(original: Any) -> Any:
        def __init__(self: Any, session: Any, origin: Any, parent: Any = None) -> None:  # noqa: N807
            try:
                try:
                    record = session._sessionwatch  # KEY
                except AttributeError:
                    record = None
                if type(record) is not SessionRecord and not isinstance(record, SessionRecord):
                    record = adopted(tracker, session)  # some make up attributes
                if record is None or not tracker.active:
                    original(self, session, origin, parent)
                    return
                if record.closed_how is not None or (record.unit is not None and record.unit.ended):
                    record = again(tracker, session, record, sys._getframe(1))
                if record.reference is None:
                    record.holds(read.number(session), weakref.ref(session.identity_map), read.unflushed(session))
                try:
                    original(self, session, origin, parent)
                except BaseException as error:
                    if isinstance(error, InvalidRequestError):
                        refused(tracker, session, record, error, sys._getframe(1))
                    raise
                if parent is None:
                    record.began = perf_counter()
                    if began is not None:
                        try:
                            began(record)
                        except Exception:
                            tracker.failed("SessionTransaction.__init__")
                elif self.nested:
                    record.savepoint()
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "SessionTransaction.__init__")
                if late is None:
                    raise
                late(self, session, origin, parent)

        return __init__

    return make


def again(tracker: Tracker, session: Any, record: SessionRecord, frame: FrameType) -> SessionRecord:
    """A session works that was closed, or whose unit has ended; raises what is to be raised."""
    error = None
    try:
        if not permanently_closed(session):  # else SQLAlchemy refuses by itself
            if record.unit is not None and record.unit.ended and record.closed_scope in (None, "hand"):
                lent = record.taken is not None or current_unit() is not None  # closed in one unit, used in the next
                record.closed_scope = "hand" if record.closed_how is not None and lent else "unit"
            error = None if lent_again(record, session) else reused(tracker, record, frame, None)
            if record.closed_how is not None:
                record = tracker.reopen(session, record, frame)
            else:
                record.unit = None  # reported once
    except Exception:
        tracker.failed("SessionTransaction.__init__")
    if error is not None:
        raise error
    return record


def refused(tracker: Tracker, session: Any, record: SessionRecord, refusal: BaseException, frame: FrameType) -> None:
    """SQLAlchemy refuses to begin: its error gets the story."""
    if record.closed_how is not None and permanently_closed(session):
        with tracker.guarded("SessionTransaction.__init__"):
            reused(tracker, record, frame, refusal)


def reused(
    tracker: Tracker, record: SessionRecord, frame: FrameType, refusal: BaseException | None
) -> Exception | None:
    """Report the use of a session after the end of its scope; what comes back is to be raised."""
    provider = record.opener
    if provider is not None and record.closer is provider:
        running = callsite.on_stack(frame, provider)
        if record.closed_scope == "generator" and running:
            return None  # it closed by hand and goes on
        if record.closed_scope == WITH and not running:
            record.closed_scope = "generator"  # whose end was the end of its block
    event = SessionReused(record, callsite.mark(frame), refusal)
    return tracker.emit(event, record.allowances)


def permanently_closed(session: Any) -> bool:
    """Whether the session was made with ``close_resets_only=False`` and has been closed."""
    state = read.close_state(session)
    return state is not None and state.name == "CLOSED"


def after_flush(tracker: Tracker) -> Callable[[Any, Any], None]:
    """Count a flush; what is added from now on is another story."""

    def listener(session: Any, flush_context: Any) -> None:
        try:
            try:
                record = session._sessionwatch  # KEY
            except AttributeError:
                record = None
            if record is not None:
                record.flushes += 1
                if not record.muted:
                    tracker.totals["flushes"] += 1
                record.added = None
        except BaseException as crossed:
            if stops(crossed, tracker, "after_flush"):
                raise

    return listener
