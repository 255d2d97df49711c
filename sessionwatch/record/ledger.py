"""Who opened, used and closed which session, and which session owned an object.

Ownership costs nothing an object: every state that a session holds shares one weak reference to the
session's identity map, and keeps it after the session has closed. A closed session's record stays in
a bounded ring under the identity of that reference. Nothing in here holds a session, an identity map
or an instance.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..frames.callsite import _new
from .life import Later, PastSession, SessionRecord

if TYPE_CHECKING:
    from ..frames.callsite import Raw
    from ..model import Mark, RawSite
    from .life import Known


class Ledger:
    """Closed sessions, load places and expunged states; every part of it is bounded."""

    def __init__(self, sessions: int = 4096, loads: int = 4096) -> None:
        self.sessions = max(1, sessions)
        self.closed: dict[int, PastSession] = {}  # by the id() of its reference
        self._emptied: dict[int, tuple[Any, Later, Mark, bool]] = {}
        self._marks: dict[Any, Raw] = {}  # of closed sessions, equal ones once
        self._databases: dict[Any, Any] = {}
        self._order: deque[int] = deque()
        self.newest = 0  # the number of the last query
        self._size = max(1, loads)
        self._runs = [-1] * self._size
        self._places: list[RawSite | None] = [None] * self._size
        self.expunged: WeakKeyDictionary[Any, tuple[Later, Mark, bool]] = WeakKeyDictionary()
        self.expired: WeakKeyDictionary[Any, tuple[Mark, int | None]] = WeakKeyDictionary()  # by hand, and their runs
        self.reattached: WeakKeyDictionary[Any, tuple[int, Mark, Any]] = WeakKeyDictionary()

    def keep(self, record: SessionRecord) -> None:
        """Remember a closed session; the oldest one makes room. Each session pays for this."""
        marks, order, closed, size = self._marks, self._order, self.closed, self.sessions
        if len(marks) >= size:
            marks.clear()
        opening: Any = record.opening
        if opening is not None:  # most sessions come from a few lines: of all marks that are equal one is kept
            code, lasti, thread, task = opening  # which keeps the code, and so its id()
            opening = marks.setdefault((id(code), lasti, thread, task), opening)
        closing: Any = record.closing
        if closing is not None:
            code, lasti, thread, task = closing
            closing = marks.setdefault((id(code), lasti, thread, task), closing)
        databases = record.databases
        if databases:
            if len(self._databases) >= size:
                self._databases.clear()
            databases = self._databases.setdefault(databases, databases)
        seconds = record.finished - record.started  # type: ignore[operator]
        past = _new(PastSession, (
            record.reference, record.number, opening, closing, record.closed_how, record.kind, seconds,
            record.statements, record.flushes, record.committed, databases, record.expirer, record.unit,
            record.allowances,
        ))  # fmt: skip
        if record.later is not None:
            record.later.past = past
        key = id(record.reference)
        while len(order) >= size:
            closed.pop(order.popleft(), None)
        if key not in closed:
            order.append(key)
        closed[key] = past

    def let_go(self, reference: Any, record: SessionRecord, mark: Mark, allowed: bool) -> None:
        """Remember that a session, which goes on, let go of all the states that share ``reference``."""
        if len(self._emptied) >= self.sessions:
            self._emptied.pop(next(iter(self._emptied)))
        self._emptied[id(reference)] = (reference, _later(record), mark, allowed)

    def owner(self, reference: Any) -> Known | None:
        """What is kept of the session whose states share ``reference``, if it has ended or let go of them."""
        kept = self.closed.get(id(reference))
        if kept is not None and kept.reference is reference:
            return kept
        emptied = self._emptied.get(id(reference))
        return emptied[1].known() if emptied is not None and emptied[0] is reference else None

    def expunged_all(self, reference: Any) -> tuple[Mark, bool] | None:
        """Where the session let go of all the states that share ``reference``, and whether that is allowed."""
        emptied = self._emptied.get(id(reference))
        return emptied[2:] if emptied is not None and emptied[0] is reference else None

    def loaded(self, run: int, place: RawSite | None) -> None:
        """Note where a query ran; a loop's places are one object."""
        index = run % self._size
        before = self._places[index - 1]
        self.newest = self._runs[index] = run
        self._places[index] = before if before == place else place

    def load_site(self, run: int | None) -> RawSite | None:
        """Where the query ran that SQLAlchemy numbered ``run``; None once it is too long ago."""
        if run is None:
            return None
        index = run % self._size
        return self._places[index] if self._runs[index] == run else None

    def note_expunged(self, state: Any, record: SessionRecord, mark: Mark, allowed: bool) -> None:
        if len(self.expunged) < self.sessions * 4:
            self.expunged[state] = (_later(record), mark, allowed)

    def note_expired(self, state: Any, mark: Mark, run: int | None) -> None:
        """An instance was expired by hand; the note holds until a query with another number than ``run`` fills it."""
        if len(self.expired) < self.sessions * 4:
            self.expired[state] = (mark, run)

    def note_reattached(self, state: Any, where: tuple[int, Mark, Any]) -> None:
        """Remember which session (its ``hash_key``) took a detached instance, by which line, and who had it before."""
        if len(self.reattached) < self.sessions * 4:
            number, mark, (record, *known) = where
            kept = (
                _later(record) if isinstance(record, SessionRecord) else record
            )  # it may be the same session, dropped
            self.reattached[state] = (number, mark, (kept, *known))

    def reattached_to(self, state: Any) -> tuple[int, Mark, Any] | None:
        """What `note_reattached` was told."""
        noted = self.reattached.get(state)
        if noted is None:
            return None
        number, mark, (kept, *known) = noted
        return number, mark, (kept.known() if isinstance(kept, Later) else kept, *known)


def _later(record: SessionRecord) -> Later:
    if record.later is None:
        record.later = Later(record)
    return record.later
