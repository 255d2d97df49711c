"""The events of a session's transaction: one listener each, for all rules, because SQLAlchemy calls each by a loop."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..border import stops
from ..frames import callsite
from ..frames.callsite import _new
from ..frames.chain import past
from ..model import Mark, RawSite
from .answers import stored
from .callers import ran_at
from .commits import committed, undone
from .database_errors import before_commit as failed_before
from .discards import committed as stored_without
from .discards import keep
from .holding import begun
from .identities import drop
from .overlaps import before_commit as somebody_inside
from .reading import read
from .reattach import note_database
from .sharing import POOLS, Sharing
from .sharing import ended as not_committed
from .writes import owns

if TYPE_CHECKING:
    from ..record.life import SessionRecord
    from ..record.tracker import Tracker
    from ..record.watchdog import Watchdog

__tracebackhide__ = True  # pytest: the story is in the message


def after_begin(
    tracker: Tracker, databases: bool, watchdog: Watchdog | None, sharing: Sharing | None
) -> Callable[[Any, Any, Any], None]:
    """A transaction, or a savepoint, took a connection.

    ``databases``: it matters which one it is of; ``watchdog``, ``sharing``: where somebody wants their events.
    """

    def listener(session: Any, transaction: Any, connection: Any) -> None:
        try:
            try:
                record = session._sessionwatch  # KEY
            except AttributeError:
                record = None
            if record is None:
                return
            if databases:
                note_database(record, connection)
            if transaction.nested:
                return
            # KEY; a connection that is kept must not keep the session's record
            connection._sessionwatch = reference = weakref.ref(record)
            entry = read.connections(transaction).get(connection)
            if entry is None:
                return
            if entry[3]:  # autoclose: checked out by this session, and so is the commit
                record.connections += 1
                record.owned = (*record.owned, id(connection))
            elif owns(session, entry):
                record.owned = (*record.owned, id(connection))
            else:
                record.external = True
            if sharing is not None and type(connection.engine.pool) in POOLS:
                sharing.watch(connection.engine.dialect)
            if watchdog is not None and record.owned:
                begun(record, reference, watchdog, connection)
        except BaseException as crossed:
            if stops(crossed, tracker, "after_begin"):
                raise

    return listener


def after_transaction_end(tracker: Tracker, ended: Callable[[Any], None]) -> Callable[[Any, Any], None]:
    """A transaction or savepoint is over, one way or another. ``ended`` hears of a record at work."""

    def listener(session: Any, transaction: Any) -> None:
        try:
            try:
                record = session._sessionwatch  # KEY
            except AttributeError:
                record = None
            if record is None:
                return
            if transaction.parent is None:
                if record.working is not None:
                    ended(record)
                if record.closed_how is None:
                    record.end_transaction()
                if record.published is not None:
                    not_committed(tracker, record)
            elif transaction.nested and record.closed_how is None:
                record.end_savepoint()
        except BaseException as crossed:
            if stops(crossed, tracker, "after_transaction_end"):
                raise

    return listener


def before_commit(tracker: Tracker) -> Callable[[Any], None]:
    """A commit begins, of the transaction or of a savepoint: of one that somebody is in, or that has failed?"""

    def listener(session: Any) -> None:
        try:
            try:
                record = session._sessionwatch  # KEY
            except AttributeError:
                record = None
            if record is None or (record.inside is None and record.failure is None):
                return
            frame = sys._getframe(1)
            error = somebody_inside(tracker, record, frame)
            if error is None:
                error = failed_before(tracker, record, frame)
            if error is not None:
                raise error
        except BaseException as crossed:
            if stops(crossed, tracker, "before_commit"):
                raise

    return listener


def after_commit(tracker: Tracker, splitting: bool) -> Callable[[Any], None]:
    """A commit of the whole transaction; a released savepoint fires this too. ``splitting``: its unit matters."""

    def listener(session: Any) -> None:
        try:
            try:
                record = session._sessionwatch  # KEY
            except AttributeError:
                record = None
            if record is None or session.in_nested_transaction():
                return
            if record.changes:
                record.changes = ()  # what was changed stands
            if record.origin is not None:
                record.origin = None
            try:
                if record.discarded is not None or (record.unit is not None and record.unit.late):
                    _made_good(tracker, record, sys._getframe(1))
                written = splitting and any(record.levels)
                mark, outer = None, None
                if written or session.expire_on_commit:
                    outer = past(sys._getframe(1))
                    mark = commit_mark(record, outer)
                if written and mark is not None and outer is not None:
                    committed(tracker, session, record, sys._getframe(1), mark, outer)
                record.committed = True
                if record.published is not None:
                    record.published = None
                record.ended_by = "committed"
                record.levels = ()
                if record.failure is not None and record.failure.told:
                    record.failure = None  # the transaction is over, and with it an error that was told
                if mark is not None and session.expire_on_commit:
                    record.expired(mark, "by commit()")
            except Exception:
                tracker.failed("after_commit")
        except BaseException as crossed:
            if stops(crossed, tracker, "after_commit"):
                raise

    return listener


def _made_good(tracker: Tracker, record: SessionRecord, frame: FrameType) -> None:
    """Before what was written is let go: what was discarded, or promised, that this commit stores after all?"""
    with tracker.guarded("after_commit"):
        if record.discarded is not None:
            stored_without(tracker, record, record.discarded, frame)
    with tracker.guarded("after_commit"):
        if record.unit is not None and record.unit.late:
            stored(record, record.unit.late)


def commit_mark(record: SessionRecord, frame: FrameType) -> Mark:
    """Where a commit is made: by a line, or by the end of a block, which SQLAlchemy may run in a task of its own."""
    if frame.f_code.co_filename in callsite._users:  # nearly always
        return callsite.marked(_new(RawSite, (frame.f_code, frame.f_lasti)))
    mark = callsite.mark(frame)
    place = ran_at(record, mark.site)
    if place is mark.site:
        return mark
    task = record.exiting.caller[0][3] if record.exiting is not None else mark.task
    return Mark(place, mark.thread, task)


def after_rollback(tracker: Tracker, splitting: bool) -> Callable[[Any], None]:
    """An explicit rollback, of the transaction or of the innermost savepoint. ``splitting``: its unit matters."""

    def listener(session: Any) -> None:
        try:
            try:
                record = session._sessionwatch  # KEY
            except AttributeError:
                record = None
            if record is None:
                return
            whole = not session.in_nested_transaction()
            try:
                if whole and record.origin is not None:
                    keep(record)
                if record.changes:
                    drop(record)
                if splitting and whole and (any(record.levels) or record.failure is not None):
                    undone(tracker, session, record, sys._getframe(1))
            except Exception:
                tracker.failed("after_rollback")
            record.drop_writes()
            if whole:
                record.rolled_back = True
                record.failed_at = perf_counter()
                record.ended_by = "rolled_back"
                record.expired(callsite.mark(sys._getframe(1)), "by rollback()")
        except BaseException as crossed:
            if stops(crossed, tracker, "after_rollback"):
                raise

    return listener
