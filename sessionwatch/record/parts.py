"""What events are made of: steps, writes, commits, who holds a transaction, who is where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from ..model import Mark, Site
    from .life import SessionRecord

LoadKind = Literal["relationship", "collection", "deferred", "expired", "unloaded", "inherited"]


class Step(NamedTuple):
    """One attribute on the way from a query's class to what was read; ``kind`` says how it is loaded."""

    model: str  # the class that defines it
    attribute: str
    kind: LoadKind


@dataclass(slots=True, eq=False, repr=False)
class Write:
    """Rows that a session wrote and did not commit (or objects that it never flushed).

    ``subject`` is a class name or a table name; ``what`` says which of both it is. ``count`` is the
    number of objects or rows, None where the database did not say.
    """

    subject: str
    what: Literal["object", "row", "definition", "pending"]
    verb: str  # "inserted", "updated", "deleted", "added", "changed", "written", "created", "altered", "dropped"
    count: int | None
    mark: Mark | None
    temporary: bool = False  # a temporary table


@dataclass(slots=True, eq=False, repr=False)
class Holder:
    """Who holds a transaction: who began it, and what that thread or task does at this moment."""

    record: SessionRecord
    began: Mark
    now: Site | None
    gone: bool  # the thread has ended, the task is done
    executing: bool  # in a statement of this session
    related: bool  # still in the function that opened the session, or that ran its first or last statement
    seconds: float  # how long the transaction has been open
    elsewhere: str = ""  # what it waits in instead: another session, a connection without one, the pool


class Commit(NamedTuple):
    """Writes that a session committed to one database."""

    session: int  # what tells the session from others
    label: str
    opened: Mark | None
    written: Mark | None  # the first of them
    committed: Mark | None


@dataclass(slots=True, eq=False, repr=False)
class Actor:
    """A thread or an asyncio task: where it is now, and where it was made (None where that is not the user's code)."""

    kind: Literal["task", "thread"]
    name: str
    now: Site | None
    created: Site | None = None
