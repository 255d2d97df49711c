"""Pending objects that the program expunged: lost, if no session has them when their unit ends."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..frames import callsite
from ..record.events import SessionEnded
from ..record.parts import Write
from ..units.scope import Unit, current_unit

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState

    from ..model import Mark
    from ..record.ledger import Ledger
    from ..record.life import SessionRecord
    from ..record.tracker import Tracker

_LIMIT = 1000  # objects that wait for the end of their unit


class Thrown:
    """One object, by weak references: a session's record must not be kept by what it let go of."""

    __slots__ = ("added", "mark", "name", "record", "reference", "state", "unit")

    def __init__(self, state: InstanceState[Any], record: SessionRecord, mark: Mark, unit: Unit | None) -> None:
        self.state = weakref.ref(state)
        self.name = state.class_.__name__
        self.record, self.reference = weakref.ref(record), record.reference
        self.added = record.added
        self.mark, self.unit = mark, unit

    @property
    def is_lost(self) -> bool:
        """Whether no session has it, or had it since."""
        state = self.state()
        return state is None or (state.session is None and state.key is None)

    def session(self, ledger: Ledger) -> Any:
        """The record of the session that let go of it, or what is kept of that."""
        return self.record() or (ledger.owner(self.reference) if self.reference is not None else None)


def note(
    thrown: dict[int, Thrown], states: Iterable[Any], record: SessionRecord | None, frame: FrameType | None
) -> None:
    """The program expunges pending objects; SQLAlchemy itself does so with orphans."""
    if record is None or frame is None or str(frame.f_globals.get("__name__", "")).startswith("sqlalchemy.orm.unit"):
        return
    mark, unit = callsite.mark(frame), current_unit()
    for state in states:
        if len(thrown) < _LIMIT:
            thrown[id(state)] = Thrown(state, record, mark, unit)


def report(tracker: Tracker, thrown: dict[int, Thrown], unit: Unit | None) -> list[Exception]:
    """Report what is lost of one unit, or of all; returns what is to be raised."""
    groups: dict[Any, list[Thrown]] = {}
    for key, one in list(thrown.items()):
        if unit is None or one.unit is unit:
            thrown.pop(key, None)
            if one.is_lost:
                groups.setdefault((id(one.reference), one.mark.site, one.name), []).append(one)
    raised = [_tell(tracker, group) for group in groups.values()]
    return [error for error in raised if error is not None]


def _tell(tracker: Tracker, group: list[Thrown]) -> Exception | None:
    first = group[0]
    record = first.session(tracker.ledger)
    if record is None:
        return None
    write = Write(first.name, "pending", "added", len(group), first.added)
    event = SessionEnded(record, "expunged", first.mark, False, (write,), False, False, 0.0)
    return tracker.emit(event, record.allowances)
