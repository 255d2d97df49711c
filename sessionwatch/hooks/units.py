"""Commits of writes, and the unit of work that each belongs to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import FrameType
from typing import Any

from .. import activation, callsite
from ..events import Commit, SplitCommit
from ..ledger import SessionRecord
from ..model import Mark, RawSite
from ..tracker import Tracker
from .writes import is_temporary

__tracebackhide__ = True  # pytest: the story is in the message


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
    if unit is not None and (unit.ended or unit.sessions == "many"):
        return None
    asking = activation.asking(frame, record.callers) if unit is None else []
    if unit is None and not asking:
        return None
    mark = mark or callsite.mark(frame)
    found = None
    for database, written in _written(session, record):
        commit = Commit(record.session_id, record.label, record.opened, written, mark)
        if unit is not None:
            first = _earlier(unit.commits, database, commit)
            if first is not None:
                found = SplitCommit(record, first, commit, unit.name, None)
        else:
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


def _written(session: Any, record: SessionRecord) -> Iterator[tuple[Any, Any]]:
    """Each database that the transaction wrote to, and its first write. Temporary tables don't count."""
    engines = {id(kept[0]): kept[0].engine for kept in session._transaction._connections.values()}
    first: dict[Any, Any] = {}
    for level in record.levels:
        for entry in level.values():
            engine = engines.get(entry.connection)
            if engine is None or is_temporary(entry.table, record.temporary):
                continue
            database = database_of(engine)
            if database not in first or entry.first < first[database].first:
                first[database] = entry
    for database, entry in first.items():
        yield database, entry.mark


def database_of(engine: Any) -> tuple[Any, ...]:
    """What two engines on one database have in common; the pool where the URL does not tell."""
    url = engine.url
    kind, database = url.get_backend_name(), url.database
    if kind == "sqlite":
        if not database or ":memory:" in database or url.query.get("mode") == "memory":
            return kind, id(engine.pool)
        return kind, database if database.startswith("file:") else os.path.abspath(database)
    host = url.host or url.query.get("host")
    if not host and not database:  # made with creator=
        return kind, id(engine.pool)
    return kind, host, url.port, database
