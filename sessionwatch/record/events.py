"""Events: what the hooks tell the rules. Plain data, built on slow paths only; no event knows SQLAlchemy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..model import Finding, Mark, Ownership, RawSite, Site
    from ..units.scope import Unit
    from .life import Known, SessionRecord
    from .parts import Actor, Commit, Holder, LoadKind, Step, Write


class Event:
    """Base of all events. One with an ``error`` that is not None gets the finding's story added to it as a note."""

    __slots__ = ()


class SessionEvent(Event):
    """Base of those that are about a session, or its instances: none of them is made without the session's record."""

    __slots__ = ()


class Counted(SessionEvent):
    """What telemetry counts. Nobody makes it and no rule handles it: it stands for what counting asks of the hooks."""

    __slots__ = ()


@dataclass(slots=True, eq=False, repr=False)
class SessionEnded(SessionEvent):
    """A session was closed, collected, or is still open when its unit or the program ends."""

    record: SessionRecord
    how: Literal["closed", "reset", "invalidated", "collected", "unit", "scope", "exit", "expunged"]
    ended: Mark | None  # the call that ended it; None for collection and exit
    in_framework: bool  # the caller of close() is library code, not the user's
    writes: tuple[Write, ...]  # not committed, not rolled back; newest last
    holds_connection: bool
    in_transaction: bool
    seconds_open: float  # how long its transaction has been open
    scope: str = ""  # whose end it outlived, where ``how`` is "scope": "the test", "the fixture 'session'"
    by_zope: bool = False  # by zope.sqlalchemy, at the end of its transaction
    leaked: bool = False  # its leak had been told by then: the event itself may wait, see record.notes
    told: list[Finding] = field(default_factory=list)  # what was found in it, also what is allowed

    @property
    def is_told(self) -> bool:
        """Whether somebody has heard of it: a finding that nothing covers."""
        return any(not finding.covered for finding in self.told)


@dataclass(slots=True, eq=False, repr=False)
class SessionReused(SessionEvent):
    """A session began work again after the scope that owned it had ended."""

    record: SessionRecord  # of the life that ended
    used: Mark | None
    error: BaseException | None = None  # SQLAlchemy's own, where it refuses by itself


@dataclass(slots=True, eq=False, repr=False)
class InstanceEvent(SessionEvent):
    """Something happened to an instance that belongs to no session any more."""

    model: str
    attribute: str
    mark: Mark | None
    ownership: Ownership | None
    via: Site | None = None  # the library line that touched it, where the user's own is further away


@dataclass(slots=True, eq=False, repr=False)
class UnloadedRead(InstanceEvent):
    """A read that needs the database. ``kind`` says what was not there, ``base`` where an inherited mapping begins."""

    kind: LoadKind = "unloaded"
    base: str = ""
    path: tuple[Step, ...] = ()  # from the class that the query asked for; the last one is what was read
    recursive: bool = False  # the path goes round: a tree
    record: Known | None = None  # of the session that holds or held it
    queried: bool = True  # False for an object that the session made, not a query
    by_get: bool = False  # its query was a call of get() or get_one(), which take loader options by another way


@dataclass(slots=True, eq=False, repr=False)
class DetachedRead(UnloadedRead):
    """A read that needs the database, on an instance without a session."""

    error: BaseException | None = None


@dataclass(slots=True, eq=False, repr=False)
class ImplicitRead(UnloadedRead):
    """A read that needs the database under asyncio, where nothing awaited it."""

    error: BaseException | None = None


@dataclass(slots=True, eq=False, repr=False)
class RepeatedLoad(UnloadedRead):
    """One attribute was loaded by a query of its own for one instance after another, from one line.

    ``count`` is how many queries that makes. ``told`` receives the finding, whose count grows with the loads to come.
    """

    count: int = 0
    told: list[Finding] = field(default_factory=list)
    instead: str = ""  # a query for all parents, of a collection that no loader option can load


@dataclass(slots=True, eq=False, repr=False)
class RepeatedGet(SessionEvent):
    """Instances of one class were fetched by their keys one after another, from one line. As `RepeatedLoad`."""

    record: SessionRecord
    model: str
    key: str  # the attribute of the primary key; of the first column, if there are more
    mark: Mark
    count: int
    told: list[Finding] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class DetachedTouch(InstanceEvent):
    """A read of a loaded value. ``is_key``: the attribute is (part of) the primary key."""

    is_key: bool = False


@dataclass(slots=True, eq=False, repr=False)
class DetachedWrite(InstanceEvent):
    """A change that no session will save. ``verb``: changed, appended to, removed from, deleted.

    It is told later than it was made: ``made``, in seconds of `time.perf_counter`, in the unit of work ``unit``.
    """

    verb: str = "changed"
    made: float | None = None
    unit: Unit | None = None


@dataclass(slots=True, eq=False, repr=False)
class Crossed(Event):
    """Instances of mapped classes crossed a boundary. ``places``: path, class and state of each."""

    how: Literal["argument", "result", "value"]
    function: str  # that is declared to be the boundary; empty for a value
    declared: Site | None
    mark: Mark | None
    places: tuple[tuple[str, str, str], ...]
    ownership: Ownership | None  # of the first one


@dataclass(slots=True, eq=False, repr=False)
class Misconfigured(Event):
    """A setting that leads to faults took effect. ``made``: what has the setting; ``used``: where it took effect."""

    kind: Literal["expire", "foreign-keys", "static", "autoflush"]
    subject: str
    made: Mark | None
    used: Mark | None
    other: Mark | None = None  # the other thread's statement; the first add() that is pending


@dataclass(slots=True, eq=False, repr=False)
class Reattached(SessionEvent):
    """An instance of a session that ended was given to another one, with harm.

    ``kind``: stale (older values went over the row's), revived (its row is gone), deleted (it was deleted itself),
    duplicate (the session holds another instance of the row), unmatched (an UPDATE found no row), outdated (of an
    older version).
    """

    model: str
    kind: Literal["stale", "revived", "deleted", "duplicate", "unmatched", "outdated"]
    attributes: tuple[str, ...]
    record: SessionRecord  # of the session that receives it
    mark: Mark | None  # the call that gives it
    verb: str  # "added" or "merged"
    ownership: Ownership | None  # of the session that had it before
    flushed: Mark | None = None
    present: Site | None = None  # the query of the instance that the session holds already
    error: BaseException | None = None  # SQLAlchemy's own, where it refuses by itself


@dataclass(slots=True, eq=False, repr=False)
class GivenAway(SessionEvent):
    """An instance that belongs to one session was given to another one; SQLAlchemy refuses all but a merge."""

    model: str
    record: Known  # of the session that it was given to
    holder: SessionRecord | None  # of the session that it belongs to; None if that one is not watched
    mark: Mark | None
    loaded: Site | None
    how: str = "given"  # or "refreshed", "expired", "asked": a parameter of a query; "merged"
    error: BaseException | None = None
    attributes: tuple[str, ...] = ()  # that were changed after the merge


@dataclass(slots=True, eq=False, repr=False)
class ChangedTwice(SessionEvent):
    """One row was changed in two sessions that were open at the same time. The second one is flushing."""

    model: str
    attributes: tuple[str, ...]
    record: SessionRecord  # of the session that flushes
    mark: Mark | None
    other: Known | None  # of the other session; None if that one is gone
    other_attributes: tuple[str, ...]
    other_mark: Mark | None  # its flush; None if it has not flushed yet
    loaded: Site | None  # the query of the second one's copy


@dataclass(slots=True, eq=False, repr=False)
class ChangedInPlace(SessionEvent):
    """A value was changed in place, and the commit that has just flushed did not write it."""

    model: str
    attribute: str
    kind: Literal["dict", "list", "set", "object"]
    type: str  # of the column, as it is written in a mapping
    record: SessionRecord
    mark: Mark | None  # the commit
    loaded: Site | None


@dataclass(slots=True, eq=False, repr=False)
class Overlap(SessionEvent):
    """A second thread or task came into a session that a first one was still inside of.

    ``did`` says what the second one did. ``stories`` receives the text of the finding.
    """

    record: SessionRecord
    second: Actor
    first: Actor
    did: str
    error: BaseException | None = None  # SQLAlchemy's or the driver's own, where they refuse by themselves
    stories: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class Blocked(SessionEvent):
    """A statement of a sync dialect ran on a thread whose event loop was running."""

    record: SessionRecord | None  # None for a connection without a session
    mark: Mark
    statement: str  # operation and table
    milliseconds: float
    coroutine: RawSite | None = None  # the user's async function that it ran in, and where in that
    by_threads: bool = False  # who called that one calls a plain function in a thread


@dataclass(slots=True, eq=False, repr=False)
class ErrorSwallowed(SessionEvent):
    """A database error was neither rolled back nor on its way out when its session went on.

    ``did`` says what the session did then: "ran SELECT orders", "was committed", "was closed", "was used again".
    """

    record: SessionRecord
    statement: str  # operation and table, or COMMIT
    kind: str  # the exception's class
    failed: Mark
    did: str
    later: Mark | None
    error: BaseException | None = None  # SQLAlchemy's own, where it refuses by itself


@dataclass(slots=True, eq=False, repr=False)
class InheritedConnection(SessionEvent):
    """A forked child used a connection that was opened before the fork."""

    record: SessionRecord | None  # None for a connection without a session
    statement: str  # operation and table
    used: Mark
    connected: Mark | None
    parent: int  # process id
    is_async: bool = False  # an asyncio engine's


@dataclass(slots=True, eq=False, repr=False)
class SplitCommit(SessionEvent):
    """A second session committed writes to a database within one unit.

    ``unit`` is its name; None where the unit is one call of ``function``.
    """

    record: SessionRecord  # of the second session
    first: Commit
    second: Commit
    unit: str | None
    function: str | None
    stored: bool = True  # the second one's writes; else they were rolled back or lost


@dataclass(slots=True, eq=False, repr=False)
class TransactionOverdue(SessionEvent):
    """A transaction is open for too long, or nothing happened in it for too long; ``limit`` is in seconds."""

    holder: Holder
    why: Literal["open", "idle"]
    limit: float


@dataclass(slots=True, eq=False, repr=False)
class ForeignLoop(SessionEvent):
    """A pool's connection that was opened on one event loop failed on another one.

    ``closed``: the loop that it was opened on has been closed meanwhile. ``task``: the name of the task that opened it.
    """

    record: SessionRecord | None  # None for a connection without a session
    statement: str  # operation and table; empty where the connection failed without a statement
    used: Mark
    connected: Mark
    closed: bool
    error: BaseException | None = None  # the driver's


@dataclass(slots=True, eq=False, repr=False)
class LateCommit(SessionEvent):
    """A response had been sent, and then the commit of what had been written before it failed."""

    record: SessionRecord
    status: int  # of the response
    kind: str  # the exception's class
    committed: Mark
    in_framework: bool  # the caller of commit() is library code, not the user's
    writes: tuple[Write, ...]  # newest last


@dataclass(slots=True, eq=False, repr=False)
class ConnectionEnded(Event):
    """A Core connection was closed, collected, or is still open at exit, with writes that nobody committed."""

    how: Literal["closed", "collected", "exit"]
    ended: Mark | None
    in_framework: bool  # the caller of close() is library code, not the user's
    writes: tuple[Write, ...]  # newest last
    kind: Literal["sync", "async"]
    unit: str | None


@dataclass(slots=True, eq=False, repr=False)
class SharedConnection(SessionEvent):
    """Two worked on one connection of the driver's, and the second ended the first one's transaction.

    ``kind``: undone (the second rolled back what the first had written), published (the second committed it, and the
    first then did not).
    """

    kind: Literal["undone", "published"]
    record: SessionRecord  # of the first
    other: SessionRecord | None  # of the second; None for a connection without a session
    did: Literal["rolled back", "closed", "committed"]  # the second
    mark: Mark  # where it did
    writes: tuple[Write, ...]  # of the first, newest last


@dataclass(slots=True, eq=False, repr=False)
class DiscardedWrites(SessionEvent):
    """A function rolled back after an error, and with its own work that of its caller, which then committed."""

    record: SessionRecord
    function: str  # that rolled back
    statement: str  # that failed: operation and table
    rolled_back: Mark
    failed: Mark
    first: Mark | None  # the caller's first write
    committed: Mark
    writes: tuple[Write, ...]


# What may come after the session of an instance, or the scope of a session, has ended.
LATE = (InstanceEvent, SessionReused, Reattached)


ENDS = (SessionEnded, ConnectionEnded)  # what may happen while the collector runs
