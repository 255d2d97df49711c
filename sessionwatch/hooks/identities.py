"""One instance or one row in two sessions that are open at the same time.

A flush of new objects costs nothing in here, and a flush of changed ones only where another session of the same
unit (else: of the same thread and task) is in a transaction.
"""

from __future__ import annotations

import sys
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import get_ident
from types import FrameType
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import RelationshipDirection, Session
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.orm.base import PassiveFlag

from ..frames import callsite
from ..frames.chain import called
from ..record.events import ChangedTwice, GivenAway
from ..record.key import KEY
from .private import BEFORE_ATTACH, PARAMETER, VALIDATE
from .reading import read

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState

    from ..model import Mark
    from ..record.life import SessionRecord
    from ..record.parts import Write
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message
_LIMIT = 1000  # rows of one session that others changed, and sessions of one owner


# -- an instance of another session -------------------------------------------------------------------


def refusals(tracker: Tracker) -> Callable[[Any, FrameType], None]:
    """What to make of an ``InvalidRequestError``: every way to give away an instance ends in this error."""

    def refused(error: Exception, frame: FrameType) -> None:
        if type(error) is not InvalidRequestError or frame.f_code.co_name not in _REFUSING:
            return
        session, state, how = _refused_in(frame)
        holder = state.session if state is not None else None
        record = session.__dict__.get(KEY) if session is not None else None
        if holder is None or record is None or holder is session:
            return
        loaded = tracker.ledger.load_site(read.run(state))
        event = GivenAway(
            model=state.class_.__name__,
            record=record,
            holder=holder.__dict__.get(KEY),
            mark=callsite.mark(frame),
            loaded=loaded.resolve() if loaded is not None else None,
            how=how,
            error=error,
        )
        tracker.emit(event)

    return refused


_REFUSING = frozenset({BEFORE_ATTACH.name, VALIDATE.name, PARAMETER})


def _refused_in(frame: FrameType) -> tuple[Any, Any, str]:
    """The session that refuses, the state that it refuses, and what was to be done with that."""
    module, name = frame.f_globals.get("__name__"), frame.f_code.co_name
    if module == Session.__module__ and name == BEFORE_ATTACH.name:
        return frame.f_locals["self"], frame.f_locals["state"], "given"
    if module == Session.__module__ and name == VALIDATE.name:
        caller = frame.f_back.f_back if frame.f_back is not None else None
        how = "refreshed" if caller is not None and caller.f_code.co_name == "refresh" else "expired"
        return frame.f_locals["self"], frame.f_locals["state"], how
    state, outer = frame.f_locals.get("state"), frame.f_back
    while outer is not None and not (state is None or isinstance(outer.f_locals.get("self"), Session)):
        outer = outer.f_back
    session = outer.f_locals.get("self") if outer is not None else None
    return (session, state, "asked") if isinstance(session, Session) else (None, None, "")


# -- an instance that was merged, and then changed itself ---------------------------------------------


class Copy:
    """Another session merged an instance: what had been changed by then is the copy's, too."""

    __slots__ = ("carried", "mark", "record", "reference")

    def __init__(self, record: SessionRecord, state: InstanceState[Any], mark: Mark) -> None:
        self.record = weakref.ref(record)
        self.reference = record.reference
        self.carried = frozenset(state.committed_state)
        self.mark = mark


def merged(session: Any, states: list[Any], frame: FrameType) -> None:
    """Note those instances of other open sessions that one has merged."""
    record = session.__dict__.get(KEY)
    for state in states if record is not None else ():
        holder = read.sessions.get(state.session_id) if state.key is not None else None
        theirs = holder.__dict__.get(KEY) if holder is not None and holder is not session else None
        if theirs is not None and len(theirs.copied) < _LIMIT:
            theirs.copied = {**theirs.copied, state.key: Copy(record, state, called(callsite.mark(frame)))}


def apart(tracker: Tracker, session: Session, record: SessionRecord, writes: tuple[Write, ...]) -> tuple[Write, ...]:
    """What a session loses, without the originals that others have merged; tells of those that were changed since.

    What is to be raised waits until the session has let go of everything.
    """
    for state in list(read.modified(session)):
        copy = record.copied.get(state.key)
        names = changed(state) if copy is not None else ()
        receiver = (copy.record() or tracker.ledger.owner(copy.reference)) if names else None
        if receiver is None:
            continue
        name = state.class_.__name__
        writes = tuple(_fewer(write, name) for write in writes if not (_is_of(write, name) and write.count == 1))
        since = tuple(key for key in names if key not in copy.carried)
        if since:
            loaded = tracker.ledger.load_site(read.run(state))
            site = loaded.resolve() if loaded is not None else None
            event = GivenAway(name, receiver, record, copy.mark, site, "merged", attributes=since)
            record.waiting = tracker.emit(event, record.allowances) or record.waiting
    return writes


def _is_of(write: Write, name: str) -> bool:
    return write.what == "pending" and write.verb == "changed" and write.subject == name


def _fewer(write: Write, name: str) -> Write:
    return replace(write, count=(write.count or 1) - 1) if _is_of(write, name) else write


# -- a row in two sessions ----------------------------------------------------------------------------


class Change:
    """A row that one session changed while another one held an older copy of it."""

    __slots__ = ("attributes", "mark", "record", "reference", "run", "standing")

    def __init__(self, record: SessionRecord, attributes: list[str], mark: Mark | None, run: int) -> None:
        self.record = weakref.ref(record)  # a session that is dropped unclosed must not be kept by another one
        self.reference = record.reference  # by which the ledger knows it once it is gone
        self.attributes = attributes
        self.mark = mark
        self.run = run  # number of the newest query by then
        self.standing = True  # not rolled back


class Working(set[int]):
    """The numbers of an owner's sessions that are in a transaction; of some that are gone, too."""

    limit = _LIMIT  # from which on those that are gone are looked for

    def prune(self) -> None:
        """The next look is at twice as many: each session that begins pays for a bounded number of others."""
        live = read.sessions
        self.difference_update([number for number in tuple(self) if number not in live])
        self.limit = max(_LIMIT, 2 * len(self))


class Neighbours:
    """Which sessions are in a transaction, by their owner. Holds numbers of sessions only."""

    def __init__(self) -> None:
        self.working: dict[Any, Working] = {}

    def began(self, record: SessionRecord) -> None:
        """A record's transaction begins."""
        record.working = key = _owner(record)
        group = self.working.get(key)
        if group is None:
            group = self.working.setdefault(key, Working())  # another thread of the unit may have come first
        group.add(record.session_id)
        if len(group) > group.limit:
            group.prune()

    def ended(self, record: SessionRecord) -> None:
        """A record's transaction is over."""
        key, record.working = record.working, None
        group = self.working.get(key)
        if group is not None:
            group.discard(record.session_id)
            if not group:
                self.working.pop(key, None)
        if record.changes:
            drop(record)

    def others(self, record: SessionRecord) -> list[Any]:
        """The other sessions of the same owner that are in a transaction, on the same database."""
        group = self.working.get(record.working, ())
        if len(group) < 2:
            return []
        numbers = tuple(group)  # other threads of the unit go on
        sessions = [read.sessions.get(number) for number in numbers if number != record.session_id]
        return [session for session in sessions if session is not None and _same_database(record, session)]


def _owner(record: SessionRecord) -> Any:
    if record.unit is not None:
        return record.unit.number
    if _get_running_loop() is None:
        return get_ident(), None
    task = sys.modules["asyncio"].current_task()
    return get_ident(), id(task) if task is not None else None


def _same_database(record: SessionRecord, session: Session) -> bool:
    other = session.__dict__.get(KEY)
    if other is None:
        return False
    return not (record.databases and other.databases) or bool(record.databases & other.databases)


def drop(record: SessionRecord) -> None:
    """The transaction, or a savepoint, was rolled back: in doubt nothing was changed."""
    for change in record.changes:
        change.standing = False
    record.changes = ()


def before_flush(tracker: Tracker, neighbours: Neighbours) -> Callable[..., None]:
    """``before_flush``: nothing was sent yet, so a finding may be raised."""

    def flushing(session: Any = None, *_: Any) -> None:  # SQLAlchemy's own tests call all listeners without anything
        record = getattr(session, KEY, None)
        if record is None or record.working is None or not read.modified(session):
            return
        problem = None
        try:
            others = neighbours.others(record)
            if others or record.outdated:
                problem = look(session, record, others, sys._getframe(1))
        except Exception:
            tracker.failed("before_flush")
        if problem is not None:
            raise problem

    def look(session: Session, record: SessionRecord, others: list[Any], frame: FrameType) -> Exception | None:
        errors = []
        deleted = read.deleted(session)
        for state in list(read.modified(session)):
            if state in deleted or state.mapper.version_id_col is not None:
                continue  # SQLAlchemy itself refuses an older version
            for other, theirs in twins(record, state, others):
                mine = changed(state)
                if not mine:
                    break
                mark = called(callsite.mark(frame))
                if isinstance(theirs, Change):
                    errors.append(_changed_twice(tracker, state, record, mine, mark, theirs))
                elif names := changed(theirs):
                    errors.append(_changed_twice(tracker, state, record, mine, mark, Change(other, names, None, 0)))
                else:
                    note(record, other, state.key, Change(record, mine, mark, tracker.ledger.newest))
        return next((error for error in errors if error is not None), None)

    return flushing


def _changed_twice(
    tracker: Tracker, state: InstanceState[Any], record: SessionRecord, mine: list[str], mark: Mark, change: Change
) -> Exception | None:
    """Tell of a row that two sessions changed; returns what is to be raised."""
    loaded = tracker.ledger.load_site(read.run(state))
    event = ChangedTwice(
        model=state.class_.__name__,
        attributes=tuple(mine),
        record=record,
        mark=mark,
        other=change.record() or tracker.ledger.owner(change.reference),
        other_attributes=tuple(change.attributes),
        other_mark=change.mark,
        loaded=loaded.resolve() if loaded is not None else None,
    )
    return tracker.emit(event)


def twins(record: SessionRecord, state: InstanceState[Any], others: list[Any]) -> Iterator[tuple[SessionRecord, Any]]:
    """Other sessions' states of the same row, and the change of the row that came after this one was loaded.

    Each with the record of the other session, which another thread of the unit may have closed by now.
    """
    for other in others:
        held, theirs = other.identity_map.get(state.key), other.__dict__.get(KEY)
        if held is not None and theirs is not None and (twin := instance_state(held)) is not state:
            yield theirs, twin
    change = record.outdated.pop(state.key, None) if record.outdated else None
    run = read.run(state)
    if change is not None and change.standing and run is not None and run <= change.run:
        yield record, change


def note(record: SessionRecord, other: SessionRecord, key: Any, change: Change) -> None:
    """Another session holds a copy that is older from now on."""
    other.outdated = other.outdated or {}
    if len(other.outdated) < _LIMIT:
        other.outdated[key] = change
        record.changes = (*record.changes, change)


def changed(state: InstanceState[Any]) -> list[str]:
    """The columns and references of a row that have a net change."""
    names = []
    if state.modified and state.obj() is not None:
        for key in list(state.committed_state):
            prop = state.mapper.attrs.get(key)
            if prop is None or getattr(prop, "direction", _TO_ONE) is not _TO_ONE:
                continue  # a collection: other rows change
            history = state.get_history(key, PassiveFlag.PASSIVE_NO_INITIALIZE)
            if history.added or history.deleted:
                names.append(key)
    return names


_TO_ONE = RelationshipDirection.MANYTOONE
