"""The end of a session: closed by whom, with what exception on its way, and what was lost."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..border import settle
from ..frames import callsite
from ..frames.callsite import Caller, Raw, Wanted, looked_at
from ..frames.teardown import handed_exceptions
from ..model import with_callers
from ..record.events import Overlap, SessionEnded
from .callers import is_leaving, leaver, on_its_way, scope_codes, scope_of
from .commits import undone
from .database_errors import Failure, answered
from .database_errors import tell as tell_failure
from .finishing import finish_callers
from .identities import apart
from .overlaps import closing as overlap_with
from .overlaps import tell as tell_overlap
from .reading import read
from .sessions import adopted
from .thrown import Thrown, note
from .writes import left_behind, uncommitted

if TYPE_CHECKING:
    from ..record.allowances import Allowance
    from ..record.life import SessionRecord
    from ..record.parts import Write
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message
_ABORTS = ("abort", "tpc_abort")


class Ending(NamedTuple):
    """What closing a session finds out before it closes."""

    writes: tuple[Write, ...]
    who: Caller
    leaving: bool  # an exception, or a generator's end, is on its way: nothing may be raised over it
    seconds: float  # how long the transaction was open
    overlap: Overlap | None = None  # another one is still inside
    swallowed: Failure | None = None  # an error that nobody rolled back; closing ends its savepoint, which forgets it
    by_zope: bool = False


def patch_close(tracker: Tracker) -> Callable[[Any], Any]:
    """``Session._close_impl``: the one way out of close, reset, invalidate and ``__exit__``.

    Private: the public ones are three, and each of them may be called by another.
    """
    codes = scope_codes()

    def make(original: Any) -> Any:
        def _close_impl(self: Any, invalidate: bool, is_reset: bool = False) -> None:
            try:
                try:
                    record = self._sessionwatch
                except AttributeError:
                    record = adopted(tracker, self)
                if record is None or not tracker.active:
                    original(self, invalidate, is_reset)
                    return
                frame = sys._getframe(1)
                if record.closed_how is not None:  # by hand inside its with block: the block's end ends its scope
                    _closed_again(tracker, codes, record, frame)
                    original(self, invalidate, is_reset)
                    return
                how = "invalidated" if invalidate else "reset" if is_reset else "closed"
                closing = end = None
                try:
                    began = record.reference is not None  # else who closes it is all there is to know
                    who = leaver(codes, record, frame, self if began else None)
                    closing, end = who[0], _ending(tracker, self, record, who, frame, how) if began else None
                except Exception:
                    tracker.failed("Session._close_impl")
                record.pending = ()  # closing: what becomes of the identity map is no longer of interest
                try:
                    original(self, invalidate, is_reset)
                except BaseException as failure:
                    _failed(tracker, record, how, closing, end, failure)
                    raise
                if end is None:
                    outcome = tracker.closed(record, how, closing)
                    if tracker.when_ended is not None:
                        tracker.when_ended(record, outcome)
                elif (error := _tell(tracker, record, how, end, frame)) is not None:
                    raise error
            except BaseException as crossed:
                if (late := settle(crossed, original, tracker, "Session._close_impl")) is None:
                    raise
                late(self, invalidate, is_reset)

        return _close_impl

    return make


def _ending(
    tracker: Tracker, session: Any, record: SessionRecord, who: Caller, frame: FrameType, how: str
) -> Ending | None:
    """What is to be told of this end, if anything is."""
    error = sys.exception() if record.exiting is None else record.exiting.error
    if not (
        error is not None
        or (record.levels and any(record.levels))
        or any(read.unflushed(session))
        or record.failure is not None
        or record.inside is not None
        or record.waiting is not None
    ):
        return None  # nearly every session
    leaving = on_its_way(error, record)
    writes = () if leaving else uncommitted(session, record)
    if writes and record.copied:
        writes = apart(tracker, session, record, writes)
    swallowed = not leaving and record.failure is not None and record.failure.wrote and how != "invalidated"
    if (leaving or writes) and (any(record.levels) or record.failure is not None):
        undone(tracker, session, record, frame)
    if writes or swallowed:
        writes, swallowed = _unanswered(record, frame, writes, swallowed)
        leaving = not (writes or swallowed)
    if writes:
        record.ended_by = "lost"  # its transaction too, where nothing was sent
    if leaving and record.began is not None:
        record.failed_at = perf_counter()
        record.rolled_back, record.ended_by = True, "rolled_back"
    overlap = overlap_with(tracker, record, looked_at(who[0]), frame) if record.inside is not None else None
    if overlap is not None:
        record.overlapped = ""  # told when the close is over: where SQLAlchemy refuses it, that is the same story
    seconds = record.seconds_open() if writes else 0.0
    by_zope = bool(writes) and any(_zopes(frame))
    failure = record.failure if swallowed else None
    return Ending(writes, who, is_leaving(error, record), seconds, overlap, failure, by_zope)


def _unanswered(
    record: SessionRecord, frame: FrameType, writes: tuple[Write, ...], swallowed: bool
) -> tuple[tuple[Write, ...], bool]:
    """Of what this end loses, what nobody knows of; an error that was swallowed stands for all of it."""
    if _was_told(record, frame) or is_zope_abort(frame) or (record.unit is not None and record.unit.answered):
        return (), False
    failure = record.failure
    if failure is None:
        return writes, False
    if answered(failure):
        return (writes if failure.catch.kind == "handled" and not failure.changes else ()), False
    return (() if swallowed else writes), swallowed


def is_zope_abort(frame: FrameType) -> bool:
    """Whether zope.sqlalchemy closes the session for a ``transaction.abort()``, its way to roll back."""
    return any(name in _ABORTS for name in _zopes(frame))


def _zopes(frame: FrameType | None) -> Iterator[str]:
    """The functions of zope.sqlalchemy that close a session."""
    for outer in itertools.islice(callsite.stack(frame), 20):
        if outer.f_globals.get("__name__") == "zope.sqlalchemy.datamanager":
            yield outer.f_code.co_name


def _was_told(record: SessionRecord, frame: FrameType) -> bool:
    """Flask's teardown functions are told of a failure that is not on its way any more; pytest keeps a test's."""
    if "pytest" in sys.modules and on_its_way(getattr(sys, "last_value", None), record):
        return True
    return any(on_its_way(told, record) for told in handed_exceptions(frame, record.opener))


def _failed(
    tracker: Tracker, record: SessionRecord, how: Any, closing: Raw | None, end: Ending | None, failure: BaseException
) -> None:
    """Closing has failed, and the session is closed all the same."""
    with tracker.guarded("Session._close_impl"):
        if end is not None:
            _tell(tracker, record, how, end, None, failure)
            return
        outcome = tracker.closed(record, how, closing)
        if tracker.when_ended is not None:
            tracker.when_ended(record, outcome)


def _tell(
    tracker: Tracker,
    record: SessionRecord,
    how: Any,
    end: Ending,
    frame: FrameType | None,
    failure: BaseException | None = None,
) -> Exception | None:
    """The session is closed: tell what is to be told of it; returns what is to be raised."""
    closing, in_framework, _, _ = end.who
    holds = record.connections > 0
    raised, record.waiting = record.waiting, None
    around = record.exiting.around if record.exiting is not None else ()
    outcome = tracker.closed(record, how, closing, lost=bool(end.writes))
    mark = with_callers(looked_at(closing), around)
    if end.overlap is not None:
        raised = tell_overlap(tracker, replace(end.overlap, error=failure)) or raised
    if end.swallowed is not None:
        raised = tell_failure(tracker, record, end.swallowed, "was closed", mark) or raised
    if end.writes:
        event = SessionEnded(record, how, mark, in_framework, end.writes, holds, True, end.seconds, by_zope=end.by_zope)
        raised = tracker.emit(event, record.allowances) or raised
    if tracker.when_ended is not None:
        tracker.when_ended(record, outcome)
    if raised is None or failure is not None or end.leaving:
        return None
    with tracker.guarded("Session._close_impl"):
        finish_callers(frame)
    return raised


def _closed_again(tracker: Tracker, codes: Wanted, record: SessionRecord, frame: FrameType) -> None:
    try:
        exit_ = record.exiting
        who = exit_.caller if exit_ is not None else callsite.caller(frame, codes)
        scope = (exit_.scope if exit_ is not None else None) or scope_of(who, record)
        if scope != "hand":
            record.closed_scope, record.closer, record.closing = scope, who[2], who[0]
        record.exiting = None
    except Exception:
        tracker.failed("Session._close_impl")


def patch_expunge_all(
    tracker: Tracker, allowed: Callable[[], Allowance | None], thrown: dict[int, Thrown]
) -> Callable[[Any], Any]:
    """``Session.expunge_all``: the session goes on with a new identity map. ``allowed``: see `ownership`."""

    def make(original: Any) -> Any:
        def expunge_all(self: Any) -> None:
            try:
                try:
                    record = self._sessionwatch
                except AttributeError:
                    record = None
                if record is None or not record.pending:  # a session that is being closed, or never began
                    original(self)
                    return
                before = record.reference
                if tracker.active and record.pending[0]:
                    with tracker.guarded("Session.expunge_all"):
                        note(thrown, list(record.pending[0]), record, sys._getframe(1))
                original(self)
                record.reference = weakref.ref(self.identity_map)
                record.pending = read.unflushed(self)
                with tracker.guarded("Session.expunge_all"):
                    allowance = allowed()
                    mark = callsite.mark(sys._getframe(1))
                    tracker.ledger.let_go(before, record, mark, allowance is not None)
                    if allowance is not None:
                        allowance.hits += 1
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "Session.expunge_all")
                if late is None:
                    raise
                late(self)

        return expunge_all

    return make


def collected(record: SessionRecord) -> tuple[SessionEnded | None, str]:
    """The last words of a session that was dropped unclosed, and its outcome."""
    writes = left_behind(record)
    in_transaction = record.began is not None
    event = SessionEnded(
        record, "collected", None, True, writes, record.connections > 0, in_transaction, record.seconds_open(),
        leaked=record.leaked,
    )  # fmt: skip
    leaked = record.connections > 0 or (record.kind == "async" and in_transaction)
    record.ended_by = "lost" if writes else "leaked" if leaked else None
    record.closed_scope = None
    outcome = record.tracker.closed(record, "collected", None, lost=bool(writes), leaked=leaked)
    return event if writes or leaked else None, outcome


def still_open(session: Any, record: SessionRecord, how: Any, scope: str = "") -> SessionEnded:
    """The state of a session that is alive when its unit, its ``scope`` or the program ends."""
    writes = uncommitted(session, record) if how in ("exit", "scope") else ()
    holds, seconds = record.connections > 0, record.seconds_open()
    return SessionEnded(
        record, how, None, True, writes, holds, record.began is not None, seconds, scope=scope, leaked=record.leaked
    )
