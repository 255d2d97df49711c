"""Sessions and the scopes that they belong to: what is open when a scope ends, and whose it is to be told as."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sqlalchemy.util import ScopedRegistry, ThreadLocalRegistry

from ..record.key import KEY
from .closing import still_open
from .reading import live_sessions, session_of
from .writes import uncommitted

if TYPE_CHECKING:
    from ..record.life import SessionRecord
    from ..record.tracker import Tracker

_REGISTRIES = frozenset({ScopedRegistry.__call__.__code__, ThreadLocalRegistry.__call__.__code__})
_DEPTH = 16  # frames between the opening of a session and the registry that asked for it, at most


def open_records() -> list[SessionRecord]:
    """The records of the sessions that are watched and in a transaction."""
    records = (session.__dict__.get(KEY) for session in live_sessions())
    return [item for item in records if item is not None and item.closed_how is None and _works(item)]


def _works(record: SessionRecord) -> bool:
    return record.began is not None and not record.muted


def has_writes(record: SessionRecord) -> bool:
    """Whether something would be lost if the session ended now."""
    session = session_of(record)
    if session is None:
        return False
    return (any(record.levels) or any(record.pending)) and bool(uncommitted(session, record))


def by_registry() -> bool:
    """Whether a scoped_session is opening the session that is being opened: who asks it next goes on with it."""
    frame = sys._getframe(1)
    for _ in range(_DEPTH):
        if frame.f_code in _REGISTRIES:
            return True
        if frame.f_back is None:
            break
        frame = frame.f_back
    return False


def live_openings() -> set[int]:
    """The id() of the opening of each session that exists and is watched."""
    records = (session.__dict__.get(KEY) for session in live_sessions())
    return {id(record.opening) for record in records if record is not None}


def tell_open(tracker: Tracker, record: SessionRecord, scope: str) -> None:
    """Report a session that is open at the end of its ``scope``: "the test", "the fixture 'session'"."""
    session = session_of(record)
    if session is not None and _works(record):
        with tracker.guarded("the end of a scope"):
            event = still_open(session, record, "scope", scope)
            tracker.emit(event, record.allowances)
            record.leaked = True
            if event.is_told:
                tracker.tell(record, "lost" if event.writes else "leaked")
