"""The public events that a recording is made from: installed only while there is one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from ..frames import callsite
from ..record.key import KEY
from ..record.sql import text_write
from .patch import guarded, listen

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import ORMExecuteState, SessionTransaction

    from ..record.recording import Recording
    from ..record.tracker import Tracker


def follow(recording: Recording, tracker: Tracker) -> Callable[[], None]:
    """Note what sessions do; returns the undo."""
    events: dict[str, Callable[..., None]] = {
        "after_begin": _began(recording),
        "after_transaction_end": _ended(recording),
        "after_flush": _mark(recording, tracker, "flush"),
        "after_commit": _mark(recording, tracker, "commit"),
        "after_rollback": _mark(recording, tracker, "rollback"),
        "do_orm_execute": _executed(recording, tracker),
    }
    undos = [listen(Session, name, guarded(listener, tracker, name)) for name, listener in events.items()]

    def undo() -> None:
        for one in reversed(undos):
            one()

    return undo


def _began(recording: Recording) -> Callable[[Any, Any, Any], None]:
    def after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
        record = getattr(session, KEY, None)
        if record is not None and not transaction.nested:
            now = recording.clock()
            recording.life(record).began(record.began or now, now)

    return after_begin


def _ended(recording: Recording) -> Callable[[Any, Any], None]:
    def after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
        record = getattr(session, KEY, None)
        if record is not None and transaction.parent is None:
            recording.life(record).ended(recording.clock())

    return after_transaction_end


def _mark(recording: Recording, tracker: Tracker, kind: str) -> Callable[..., None]:
    """A flush, a commit or a rollback; those of a savepoint are none."""

    def listener(session: Session, *_: Any) -> None:
        record = getattr(session, KEY, None)
        if record is not None and (kind == "flush" or not session.in_nested_transaction()):
            try:
                recording.life(record).mark(kind, recording.clock(), callsite.site(sys._getframe(1)))
            except Exception:
                tracker.failed("recording")

    return listener


def _executed(recording: Recording, tracker: Tracker) -> Callable[[Any], None]:
    """A statement that was given to the session, or that a load needs."""

    def do_orm_execute(state: ORMExecuteState) -> None:
        record = getattr(state.session, KEY, None)
        if record is not None:
            try:
                kind = "load" if state.is_select else "write" if _writes(state) else "statement"
                recording.life(record).mark(kind, recording.clock(), callsite.site(sys._getframe(1)))
            except Exception:
                tracker.failed("recording")

    return do_orm_execute


def _writes(state: ORMExecuteState) -> bool:
    if state.is_insert or state.is_update or state.is_delete:
        return True
    words = getattr(state.statement, "text", None)
    return isinstance(words, str) and text_write(words) is not None
