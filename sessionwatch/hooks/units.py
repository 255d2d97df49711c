"""Commits of writes, and the unit of work that each belongs to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ..frames import activation, callsite
from ..frames.callsite import Raw, looked_at
from ..model import Mark, RawSite
from ..record.events import Commit, SplitCommit
from ..record.ledger import SessionRecord
from ..record.tracker import Tracker
from .reading import entries
from .writes import is_temporary

__tracebackhide__ = True  # pytest: the story is in the message

# A commit that nobody has looked at yet, in a plain tuple: URL and id() of the pool by id() of the connection, what was
# written, temporary tables, session, its number, where it was opened, and where it was committed.
Unread = tuple[dict[int, tuple[Any, int]], tuple[Any, ...], frozenset[str], int, int, Raw | None, Mark]


def committed(tracker: Tracker, session: Any, record: SessionRecord, frame: FrameType, mark: Mark | None) -> None:
    """A commit of a transaction that wrote, at ``mark`` if that is known already.

    What is to be raised waits until the session has let go of everything.
    """
    event = split(session, record, frame, mark)
    if event is not None:
        record.waiting = tracker.emit(event, record.allowances) or record.waiting


def split(session: Any, record: SessionRecord, frame: FrameType, mark: Mark | None) -> SplitCommit | None:
    """The event of a commit that is not the first one of its unit, by another session, to one database."""
    unit = record.unit
    if unit is None:
        return _split_of_a_call(session, record, frame, mark)
    if unit.ended or unit.sessions == "many":
        return None
    unread = _unread(session, record, mark or callsite.mark(frame))
    commits = unit.commits
    if not commits:
        unit.commits = unread  # read only if there is another one, which few units have
        return None
    if type(commits) is tuple:
        commits = unit.commits = list(_read(commits))
    found = None
    for database, commit in _read(unread):
        first = _earlier(commits, database, commit)
        if first is not None:
            found = SplitCommit(record, first, commit, unit.name, None)
    return found


def _split_of_a_call(session: Any, record: SessionRecord, frame: FrameType, mark: Mark | None) -> SplitCommit | None:
    """The same where no unit is declared: it is the call that asked for both sessions."""
    asking = activation.asking(frame, record.callers)
    if not asking:
        return None
    found = None
    for database, commit in _read(_unread(session, record, mark or callsite.mark(frame))):
        pair = activation.together(asking, database, record.session_id, commit)
        if pair is not None:
            function = RawSite(pair[0].code, -1).resolve().function
            found = SplitCommit(record, pair[1], commit, None, function)
    return found


def _earlier(commits: list[Any], database: Any, commit: Commit) -> Commit | None:
    """Note a commit in its unit; another session's first one to the same database, at the first time only."""
    kept = [other for other in commits if other[0] == database]
    if not kept:
        commits.append((database, commit))
    elif len(kept) == 1 and kept[0][1].session != commit.session:
        commits.append((database, commit))
        return kept[0][1]  # type: ignore[no-any-return]
    return None


def _unread(session: Any, record: SessionRecord, mark: Mark) -> Unread:
    """What there is to know of a commit, while its transaction is still there; neither session nor engine is kept."""
    databases = {}
    for kept in entries(session):
        engine = kept[0].engine
        databases[id(kept[0])] = engine.url, id(engine.pool)
    return databases, record.levels, record.temporary, record.session_id, record.number, record.opening, mark


def _read(unread: Unread) -> Iterator[tuple[Any, Commit]]:
    """Each database that was written to, and the commit of it. Temporary tables don't count."""
    databases, levels, temporary, session, number, opening, mark = unread
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
        yield database, Commit(session, f"S{number}", opened, entry.mark, mark)


def database_of(engine: Any) -> tuple[Any, ...]:
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
