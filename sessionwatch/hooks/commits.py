"""Commits of writes, and the unit of work that each belongs to."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from types import FrameType
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from ..frames import activation, callsite
from ..frames.callsite import Raw, _new, looked_at
from ..frames.catching import caught
from ..model import Mark, RawSite
from ..record.events import SplitCommit
from ..record.parts import Commit
from .reading import entries
from .writes import is_temporary

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ..record.life import SessionRecord
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message

# A commit that nobody has looked at yet, in a plain tuple: URL and id() of the pool by id() of the connection, what was
# written, temporary tables, session, its number, where it was opened, where it was committed, and what was around that.
Unread = tuple[
    dict[int, tuple[Any, int]], tuple[Any, ...], frozenset[str], int, int, Raw | None, Mark, tuple[RawSite, ...]
]
_OUTWARDS = 8  # places of the user's around a commit that tell one line from another
_BLOCKS = 40  # frames between a rollback and the block that is left, at most
_serials = itertools.count(1)
# The commits that were made before in this task, or before it was begun: a task that is begun later inherits them.
_before: ContextVar[tuple[int, ...]] = ContextVar("sessionwatch_commits", default=())


def committed(
    tracker: Tracker, session: Session, record: SessionRecord, frame: FrameType, mark: Mark, outer: FrameType
) -> None:
    """A commit of a transaction that wrote, at ``mark``; ``outer``: as of `chain.past`.

    What is to be raised waits until the session has let go of everything.
    """
    unit = record.unit
    event = split(session, record, frame, mark) if unit is not None else _of_a_call(session, record, frame, mark, outer)
    if event is not None:
        record.waiting = tracker.emit(event, record.allowances) or record.waiting


def undone(tracker: Tracker, session: Session, record: SessionRecord, frame: FrameType) -> None:
    """A transaction that wrote, or failed to, is rolled back: is another session's part of the unit stored?"""
    unit = record.unit
    if unit is None:
        _half_of_a_call(tracker, session, record, frame)
    elif not unit.ended and unit.sessions == "one" and unit.commits:
        mark = looked_at(record.exiting.caller[0]) if record.exiting is not None else callsite.mark(frame)
        event = split(session, record, frame, mark, stored=False)
        if event is not None and (any(record.levels) or record.failure.catch.kind in ("left", "turned")):
            unit.half = event, record.allowances  # told at its end: the session may try again


def split(
    session: Session, record: SessionRecord, frame: FrameType, mark: Mark, stored: bool = True
) -> SplitCommit | None:
    """The event of a commit that is not the first one of its unit, by another session, to one database.

    Not ``stored``: of a rollback.
    """
    unit = record.unit
    if unit is None or unit.ended or unit.sessions == "many":
        return None
    unread = _unread(session, record, mark, _around(record, frame))
    commits = unit.commits
    if not commits:
        unit.commits = (unread, _numbered())  # read only if there is another one, which few units have
        return None
    if stored and _in_its_hook(session, frame):
        return None
    if type(commits) is tuple:
        commits = unit.commits = [(*one, commits[0][-1], commits[1]) for one in _read(commits[0])]
    found = None
    for database, commit in _read(unread):
        first = _earlier(commits, database, commit, unread[-1], record) if stored else _first(commits, database)
        if first is not None and first[1].session != commit.session and not _is_another_unit(first, unread, record):
            found = SplitCommit(record, first[1], commit, unit.name, None, stored)
    if found is not None and stored:
        unit.half = None
    return found


def _numbered() -> int:
    serial = next(_serials)
    _before.set((*_before.get(), serial))
    return serial


def _around(record: SessionRecord, frame: FrameType) -> tuple[RawSite, ...]:
    if record.exiting is not None:
        code, lasti, _, _ = record.exiting.caller[0]
        return (*((RawSite(code, lasti),) if code is not None else ()), *record.exiting.around[:_OUTWARDS])
    return callsite.users(frame, _OUTWARDS)


def _first(commits: list[Any], database: Any) -> Any:
    return next((kept for kept in commits if kept[0] == database), None)


def _is_another_unit(first: Any, unread: Unread, record: SessionRecord) -> bool:
    """Whether the second session does work of its own.

    In a task that was begun when the first one had committed; opened when the first one had failed, for a record of
    that; or by the very line that opened the first one, again and again.
    """
    _, commit, around, serial = first
    mark, mine = unread[-2], unread[-1]
    if commit.committed is not None and mark.task != commit.committed.task and serial in _before.get():
        return True
    if around and around == mine:
        return True
    unit = record.unit
    others = (one for one in unit.records() if one.session_id == commit.session) if unit is not None else ()
    return bool(record.errors_at_open) or any(
        one.failed_at is not None and one.failed_at <= record.started for one in others
    )


def _of_a_call(
    session: Session, record: SessionRecord, frame: FrameType, mark: Mark, outer: FrameType
) -> SplitCommit | None:
    """The same where no unit is declared: it is the call that asked for both sessions."""
    asking = activation.asking(outer, record.callers)
    if not asking:
        return None
    found = None
    for database, commit in _read(_unread(session, record, mark)):
        pair = activation.together(asking, database, record.session_id, commit)
        if pair is not None and not _in_its_hook(session, frame):
            function = RawSite(pair[0].code, -1).resolve().function
            found = SplitCommit(record, pair[1], commit, None, function)
    return found


def _half_of_a_call(tracker: Tracker, session: Session, record: SessionRecord, frame: FrameType) -> None:
    """The same of a session that fails, where the error leaves the call that asked for both: nobody tries again."""
    if not record.callers or record.errors_at_open:
        return
    error = record.exiting.error if record.exiting is not None else sys.exception() or _left_by(frame)
    if error is None or isinstance(error, GeneratorExit):
        return
    asking = activation.asking(frame, record.callers)
    if not any(call.token.commits for call in asking):
        return
    mark = looked_at(record.exiting.caller[0]) if record.exiting is not None else callsite.mark(frame)
    classes = tuple(one.__name__ for one in type(error).__mro__)
    for database, commit in _read(_unread(session, record, mark)):
        call, first = activation.earlier(asking, database, record.session_id)
        if call is not None and caught([RawSite(call.code, call.lasti)], classes).kind == "left":
            call.token.told = True
            function = RawSite(call.code, -1).resolve().function
            tracker.emit(SplitCommit(record, first, commit, None, function, stored=False), record.allowances)


def _left_by(frame: FrameType) -> BaseException | None:
    """The exception by which a block is left, which a greenlet of SQLAlchemy's does not handle itself."""
    for outer in itertools.islice(callsite.stack(frame), _BLOCKS):
        value = outer.f_locals.get("value") if outer.f_code.co_name in ("__exit__", "__aexit__") else None
        if isinstance(value, BaseException):
            return value
    return None


def _in_its_hook(session: Session, frame: FrameType) -> bool:
    """Whether another session has just committed, and one of the program's listeners to that is running."""
    for outer in callsite.stack(frame):
        if outer.f_code.co_name == "commit" and outer.f_globals.get("__name__") == Session.__module__:
            owner = outer.f_locals.get("self")
            if getattr(owner, "session", owner) is not session:
                return True
    return False


def _earlier(commits: list[Any], database: Any, commit: Commit, around: Any, record: SessionRecord) -> Any:
    """Note a commit in its unit; another session's first one to the same database, at the first time only."""
    kept = [other for other in commits if other[0] == database]
    if not kept:
        commits.append((database, commit, around, _numbered()))
    elif len(kept) == 1 and kept[0][1].session != commit.session:
        if not _is_another_unit(kept[0], (*(None,) * 6, commit.committed, around), record):  # type: ignore[arg-type]
            commits.append((database, commit, around, _numbered()))
        return kept[0]
    return None


def _unread(session: Session, record: SessionRecord, mark: Mark, around: tuple[RawSite, ...] = ()) -> Unread:
    """What there is to know of a commit, while its transaction is still there; neither session nor engine is kept."""
    databases = {}
    for kept in entries(session):
        engine = kept[0].engine
        databases[id(kept[0])] = engine.url, id(engine.pool)
    levels = record.levels
    if not any(levels) and record.failure is not None and record.failure.attempt is not None:
        levels = ({"": record.failure.attempt},)  # the first write of all failed
    return databases, levels, record.temporary, record.session_id, record.number, record.opening, mark, around


def _read(unread: Unread) -> Iterator[tuple[Any, Commit]]:
    """Each database that was written to, and the commit of it. Temporary tables don't count."""
    databases, levels, temporary, session, number, opening, mark, _ = unread
    opened = looked_at(opening) if opening is not None else None
    first: dict[Any, Any] = {}
    for level in levels:
        for entry in level.values():
            place = databases.get(entry.connection)
            if place is None or is_temporary(entry.table, temporary):
                continue
            database = _database(*place)
            if database not in first or entry.first < first[database].first:
                first[database] = entry
    for database, entry in first.items():
        yield database, _new(Commit, (session, f"S{number}", opened, entry.mark, mark))


def database_of(engine: Engine) -> tuple[Any, ...]:
    """What two engines on one database have in common; the pool where the URL does not tell."""
    return _database(engine.url, id(engine.pool))


def _database(url: Any, pool: int) -> tuple[Any, ...]:
    kind, database = url.get_backend_name(), url.database
    if kind == "sqlite":
        if not database or ":memory:" in database or url.query.get("mode") == "memory":
            return kind, pool
        return kind, database if database.startswith("file:") else os.path.abspath(database)
    host = url.host or url.query.get("host")
    if not host and not database:  # made with creator=
        return kind, pool
    return kind, host, url.port, database
