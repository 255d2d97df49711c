"""Instances that leave one session and enter another: merged over newer values, added twice, without a row.

A merge is looked at once, when the whole of it is done: SQLAlchemy's own memory of it names each given
instance and the one that it became.
"""

from __future__ import annotations

import datetime
import math
import sys
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import Enum
from types import FrameType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import Column, TypeDecorator
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.mutable import MutableBase
from sqlalchemy.orm import ColumnProperty, InstanceState
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.orm.base import LoaderCallableStatus

from ..border import settle
from ..frames import callsite
from ..frames.chain import called
from ..record.events import Reattached
from ..record.key import KEY
from . import identities
from .ownership import Owner, described, is_detached, owner
from .patch import patch_error
from .private import MERGE, RECURSIVE, ROWS, UPDATES
from .reading import read

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import Mapper, Session

    from ..model import Mark, Site
    from ..record.life import Known, SessionRecord
    from ..record.tracker import Tracker
    from .attributes import PendingWrites

__tracebackhide__ = True  # pytest: the story is in the message
_PLAIN = (str, bytes, bool, int, float, Decimal, datetime.date, datetime.time, datetime.timedelta, uuid.UUID, Enum)
_databases: WeakKeyDictionary[Any, frozenset[Any]] = WeakKeyDictionary()  # of connections of a pool, worked out once


# -- merge --------------------------------------------------------------------------------------------


def patch_merge(writes: PendingWrites, tracker: Tracker, judged: bool, noted: bool) -> Callable[[Any], Any]:
    """``Session._merge``: called for the given instance and for each one that the merge cascades to.

    Private: ``merge()`` is seen for the first of them only. ``judged``: whether harm is looked for, which a detached
    instance may do. ``noted``: whether another session's instances are noted.
    """

    def make(original: Any) -> Any:
        def _merge(self: Any, state: InstanceState[Any], *args: Any, **kwargs: Any) -> Any:
            try:
                known = kwargs.get(RECURSIVE.name)
                outermost = (judged or noted) and not known and kwargs.get("load", True)
                merged = original(self, state, *args, **kwargs)
                writes.taken(state)
                if outermost and known:
                    problem = None
                    try:
                        problem = _received(tracker, self, known, sys._getframe(1), judged, noted)
                    except Exception:
                        tracker.failed("Session._merge")
                    if problem is not None:
                        raise problem
                return merged
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "Session._merge")
                if late is None:
                    raise
                return late(self, state, *args, **kwargs)

        return _merge

    return make


def _received(
    tracker: Tracker, session: Session, known: dict[Any, Any], frame: FrameType, judged: bool, noted: bool
) -> Exception | None:
    """What is to be raised of the instances that a merge was given, each with what it was merged into."""
    record = session.__dict__.get(KEY)
    if record is None or not tracker.active:
        return None
    made = [(state, copy) for state, copy in list(known.items()) if isinstance(state, InstanceState)]
    if noted:
        identities.merged(session, [state for state, _ in made], frame)
    errors = [_judged(tracker, record, state, instance_state(copy), frame) for state, copy in made if judged]
    return next((error for error in errors if error is not None), None)


def _judged(tracker: Tracker, record: SessionRecord, given: Any, target: Any, frame: FrameType) -> Exception | None:
    if given is target or given.key is None or not _was_stored(tracker, given):
        return None
    if target.key is None:
        kind, attributes = "revived", list[str]()
    else:
        kind, attributes = "stale", list(overwritten(given, target))
        if not attributes:
            return None
    before = owner(tracker, given)
    if _never_committed(before[0], given) or _elsewhere(before[0], record):
        return None
    mark = callsite.mark(frame)
    return tracker.emit(_event(tracker, kind, given, before, record, mark, "merged", attributes=tuple(attributes)))


def overwritten(given: Any, target: Any) -> Iterator[str]:
    """Columns where the merge put an older value over the row's, though nobody had set it since it was loaded."""
    mapper = target.mapper
    chosen = _chosen(given, mapper)
    for key, before in list(target.committed_state.items()):
        prop = mapper.attrs.get(key)
        if not isinstance(prop, ColumnProperty) or isinstance(before, LoaderCallableStatus):
            continue
        if key in chosen or key not in given.dict or not _counts(prop.columns, mapper):
            continue
        if differs(prop.columns[0].type, before, given.dict[key], read.run(given) is not None):
            yield key


def _chosen(given: Any, mapper: Mapper[Any]) -> set[str]:
    """What the program itself changed since the instance was loaded; with a relationship its foreign keys."""
    chosen = set(given.committed_state)
    for relationship in mapper.relationships:
        if relationship.key in chosen:
            chosen |= {mapper.get_property_by_column(column).key for column in _own_columns(relationship, mapper)}
    return chosen


def _own_columns(relationship: Any, mapper: Mapper[Any]) -> list[Any]:
    return [column for column in relationship.local_columns if mapper.columns.contains_column(column)]


def _counts(columns: Any, mapper: Mapper[Any]) -> bool:
    """Keys, versions, and what the database or a default fills in at each update are no stale values."""
    return all(isinstance(column, Column) for column in columns) and not any(
        column.primary_key
        or column is mapper.version_id_col
        or column.onupdate is not None
        or column.server_onupdate is not None
        for column in columns
    )


def differs(type_: Any, row: Any, given: Any, loaded: bool) -> bool:
    """Whether two values of a column are certainly different, and not two forms of one.

    ``loaded``: the given one came from a row, not from the program, so that the database has formed it already.
    """
    if row is given or type_.compare_values(row, given):
        return False
    if row is None or given is None:
        return True
    if not loaded and isinstance(type_, TypeDecorator):
        return False  # what the program stored and what comes back may be two things
    if isinstance(row, MutableBase) and isinstance(given, MutableBase):
        return loaded
    if not isinstance(row, _PLAIN) or not isinstance(given, _PLAIN):
        return False  # may have been changed in place since
    return not _same_form(row, given)


def _same_form(row: Any, given: Any) -> bool:
    """Whether the database's way of storing accounts for the difference."""
    if isinstance(row, float | Decimal) or isinstance(given, float | Decimal):
        return _same_number(row, given)
    if type(row) is not type(given):
        return True  # not comparable without knowledge of the driver
    if isinstance(row, datetime.datetime):
        return bool(abs(row.replace(tzinfo=None) - given.replace(tzinfo=None)) < datetime.timedelta(seconds=1))
    if isinstance(row, str | bytes):
        return bool(row.rstrip() == given.rstrip())
    return False


def _same_number(row: Any, given: Any) -> bool:
    if isinstance(row, Decimal) and isinstance(given, Decimal) and row.is_finite() and given.is_finite():
        return bool(abs(row - given) < Decimal(1).scaleb(int(row.as_tuple().exponent)))  # rounded to the column's scale
    numbers = isinstance(row, int | float | Decimal) and isinstance(given, int | float | Decimal)
    return not numbers or math.isclose(row, given, rel_tol=1e-6)


# -- add ----------------------------------------------------------------------------------------------


def patch_update(tracker: Tracker) -> Callable[[Any], Any]:
    """``Session._update_impl``: an instance that has an identity enters a session.

    Private: the events tell of it when the instance has forgotten its former session, and not of refusals.
    Never called for what is loaded or inserted.
    """

    def make(original: Any) -> Any:
        def _update_impl(self: Any, state: InstanceState[Any], *args: Any, **kwargs: Any) -> None:
            try:
                record = self.__dict__.get(KEY)
                if record is None or not tracker.active or not (is_detached(state) and _was_stored(tracker, state)):
                    original(self, state, *args, **kwargs)
                    return
                before = owner(tracker, state)
                try:
                    original(self, state, *args, **kwargs)
                except InvalidRequestError as error:
                    with tracker.guarded("Session._update_impl"):
                        _refused(tracker, self, record, state, before, error, sys._getframe(1))
                    raise
                except BaseException:
                    raise
                try:
                    mark = called(callsite.mark(sys._getframe(1)))
                    tracker.ledger.note_reattached(state, (read.number(self), mark, before))
                except Exception:
                    tracker.failed("Session._update_impl")
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "Session._update_impl")
                if late is None:
                    raise
                late(self, state, *args, **kwargs)

        return _update_impl

    return make


def _refused(
    tracker: Tracker,
    session: Session,
    record: SessionRecord,
    state: Any,
    before: Owner,
    error: Exception,
    frame: FrameType,
) -> None:
    """SQLAlchemy refuses to add an instance: why, and what is in its place?"""
    held = session.identity_map.get(state.key)
    other = instance_state(held) if held is not None else None
    present = None
    if state.was_deleted:
        kind = "deleted"
    elif other is not None and other is not state:
        kind, present = "duplicate", tracker.ledger.load_site(read.run(other))
    else:
        return
    site = present.resolve() if present is not None else None
    mark = callsite.mark(frame)
    tracker.emit(_event(tracker, kind, state, before, record, mark, "added", error=error, present=site))


# -- refusals of the flush ----------------------------------------------------------------------------


def patch_stale(tracker: Tracker) -> Callable[[Any], Any]:
    """``StaleDataError.__init__``: an UPDATE that matched no row, a merge of an older version."""

    def refused(error: Exception, frame: FrameType) -> None:
        names = frame.f_locals
        if frame.f_code.co_name == UPDATES.name:
            unmatched(error, [row[0] for row in names.get(ROWS.name) or ()], callsite.mark(frame))
        elif frame.f_code.co_name == MERGE.name and isinstance(names.get("state"), InstanceState):
            outdated(error, names["state"], names["self"], callsite.mark(frame))

    def unmatched(error: Exception, states: list[Any], mark: Mark) -> None:
        """Which of several rows was missing is not known: told only where each was of a reattached instance."""
        noted = [tracker.ledger.reattached_to(state) for state in states if state is not None]  # a bulk update has none
        first = noted[0] if noted else None
        if first is None or len(noted) < len(states) or any(where is None or where[0] != first[0] for where in noted):
            return
        state, (number, added, before) = states[0], first
        session = state.session if number == state.session_id else None
        record = session.__dict__.get(KEY) if session is not None else None
        if record is not None:
            tracker.emit(_event(tracker, "unmatched", state, before, record, added, "added", error=error, flushed=mark))

    def outdated(error: Exception, given: Any, session: Session, mark: Mark) -> None:
        record = session.__dict__.get(KEY)
        if record is not None and given.key is not None and _was_stored(tracker, given):
            before = owner(tracker, given)
            tracker.emit(_event(tracker, "outdated", given, before, record, mark, "merged", error=error))

    return patch_error(tracker, "StaleDataError", refused)


# -- what is known of an instance ---------------------------------------------------------------------


def note_database(record: SessionRecord, connection: Connection) -> None:
    """Which database a session works on: rows are copied from one to another by merging, too."""
    engine = connection.engine
    found = _databases.get(engine.pool)
    if found is None:
        found = _databases[engine.pool] = frozenset({(_where(engine), ())})
    tenant = connection.get_execution_options().get("schema_translate_map")
    if isinstance(tenant, dict) and tenant:  # a stand-in of a test may answer with anything
        found = frozenset({(_where(engine), tuple(sorted(map(str, tenant.items()))))})
    if record.databases is not found:
        record.databases = record.databases | found if record.databases else found


def _where(engine: Engine) -> tuple[Any, ...]:
    """Host, port and name of a database; its pool where the URL does not tell."""
    url = engine.url
    if not url.host and url.database in (None, "", ":memory:"):
        return None, id(engine.pool), None
    return url.host, url.port, url.database


def _elsewhere(before: Known | None, now: SessionRecord) -> bool:
    return before is not None and bool(before.databases and now.databases) and not before.databases & now.databases


def _was_stored(tracker: Tracker, state: InstanceState[Any]) -> bool:
    """Whether a session or a pickle is known to have held the instance; else a program made up its identity."""
    return (
        read.run(state) is not None
        or read.instance_dict(state) is not None
        or read.unpickled(state) is not None
        or state in tracker.ledger.expunged
    )


def _never_committed(before: Known | None, state: InstanceState[Any]) -> bool:
    """Whether what the instance holds was written, but not committed: it is newer than the row, not older."""
    session = state.session
    transaction = (session.get_nested_transaction() or session.get_transaction()) if session is not None else None
    while transaction is not None:
        if any(state in states for states in read.written(transaction)):
            return True
        transaction = transaction.parent
    return before is not None and bool(before.flushes) and not before.committed


def _event(
    tracker: Tracker,
    kind: Any,
    state: InstanceState[Any],
    before: Owner,
    record: SessionRecord,
    mark: Mark,
    verb: str,
    *,
    attributes: tuple[str, ...] = (),
    flushed: Mark | None = None,
    present: Site | None = None,
    error: BaseException | None = None,
) -> Reattached:
    return Reattached(
        model=state.class_.__name__,
        kind=kind,
        attributes=attributes,
        record=record,
        mark=mark,
        verb=verb,
        ownership=described(tracker, state, before),
        flushed=flushed,
        present=present,
        error=error,
    )
