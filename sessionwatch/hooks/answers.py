"""Commits that fail after the response was sent: the client believes what is not stored.

Nothing is asked per statement or session. When a response has been sent, the sessions of its request that have
written are marked; whether one of them fails to commit is asked where a driver, or a flush, has failed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..frames import callsite
from ..frames.callsite import looked_at
from ..record.events import LateCommit
from ..record.key import KEY
from ..units.scope import Unit, on_answer, on_unit_end
from .reading import read, session_of
from .writes import left_behind, written

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction

    from ..record.life import SessionRecord
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message


def follow(tracker: Tracker) -> Callable[[], None]:
    """Hear of responses and of the ends of requests; returns the undo."""

    def ended(unit: Unit) -> Exception | None:
        late, unit.late = unit.late, {}
        raised = [tracker.emit(event, event.record.allowances) for event in late.values()]
        return next((error for error in raised if error is not None), None)

    with contextlib.ExitStack() as stack:
        stack.enter_context(on_answer(_answered))
        stack.enter_context(on_unit_end(ended))
        return stack.pop_all().close
    raise AssertionError("unreachable")


def _answered(unit: Unit) -> None:
    """What the unit's sessions have written by now, the client was told of."""
    for record in unit.records():
        record.promised = record.closed_how is None and (any(record.levels) or any(record.pending))


def after_soft_rollback(tracker: Tracker) -> Callable[[Any, Any], None]:
    """SQLAlchemy itself refuses a flush, as for an UPDATE that matched no row."""

    def listener(session: Session, transaction: SessionTransaction) -> None:
        record = session.__dict__.get(KEY)
        error = sys.exception()
        if record is not None and record.promised and error is not None and read.flushing(session):
            with tracker.guarded("after_soft_rollback"):
                commit_failed(record, error, sys._getframe(1))

    return listener


def commit_failed(record: SessionRecord, error: BaseException, frame: FrameType) -> None:
    """Note that a commit of what was promised has failed; it may be tried again with success."""
    unit = record.unit
    if unit is None or not record.promised or record.number in unit.late:
        return
    session = session_of(record)
    if session is None or session.in_nested_transaction() or not _commits(frame):
        return
    writes = left_behind(record)
    if writes:
        closing, in_framework, _, _ = callsite.caller(frame)
        unit.late[record.number] = LateCommit(
            record, unit.answer, type(error).__name__, looked_at(closing), in_framework, writes
        )


def _commits(frame: FrameType) -> bool:
    return any(
        outer.f_code.co_name == "commit" and outer.f_globals.get("__name__") == "sqlalchemy.orm.session"
        for outer in callsite.stack(frame)
    )


def stored(record: SessionRecord, late: dict[int, LateCommit]) -> None:
    """A commit that succeeds after one that failed stores what was promised."""
    late.pop(record.number, None)
    subjects = {write.subject for write in written(record)}
    for number in [number for number, event in late.items() if subjects & {write.subject for write in event.writes}]:
        late.pop(number, None)
