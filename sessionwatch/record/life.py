"""One life of a session: who opened, used and closed it, what it wrote; and what is kept of it afterwards.

Nothing in here holds a session, an identity map or an instance.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from time import perf_counter
from types import CodeType, FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..frames.callsite import Raw, looked_at
from ..model import with_callers

if TYPE_CHECKING:
    from ..model import Mark, RawSite
    from ..units.scope import Unit

WITH, REGISTRY = "with", "registry"  # scopes that end with a session's close
NOTHING: MappingProxyType[Any, Any] = MappingProxyType({})
_numbers = itertools.count(1)
_entries = itertools.count(1)


def recognised(error: BaseException) -> tuple[int, CodeType | None, int]:
    """What tells an exception from later ones without holding it: its id alone may be used again."""
    traceback = error.__traceback__
    if traceback is None:
        return id(error), None, -1
    return id(error), traceback.tb_frame.f_code, traceback.tb_lasti


class Entry:
    """Rows written by one place to one table within one transaction or savepoint."""

    __slots__ = ("connection", "count", "first", "flushed", "mark", "table", "verb")

    def __init__(self, table: Any, verb: str, connection: int, flushed: bool, mark: Mark) -> None:
        self.table = table  # a Table, or a name
        self.verb = verb
        self.connection = connection
        self.flushed = flushed  # by the unit of work, so that the table stands for a class
        self.mark = mark
        self.count: int | None = 0
        self.first = next(_entries)  # the order of the first writes; that of the newest is the dictionary's

    def add(self, count: int | None, mark: Mark) -> None:
        self.count = None if count is None or self.count is None else self.count + count
        if mark.thread is not self.mark.thread or mark.task != self.mark.task:  # the place is the same
            self.mark = mark._replace(site=self.mark.site)


class Lifetime:
    """What is the same of a session that goes on and of one that has ended."""

    __slots__ = ()
    number: int
    opening: Raw | None
    closing: Raw | None
    around: tuple[RawSite, ...] = ()  # the frames around the one that opened it, where they are kept

    @property
    def label(self) -> str:
        return f"S{self.number}"

    @property
    def opened(self) -> Mark | None:
        """Where it was opened, and by which thread and task; None if that was before the installation."""
        return with_callers(looked_at(self.opening), self.around) if self.opening is not None else None

    @property
    def closed(self) -> Mark | None:
        """The same of its close; None if it is open, or was collected."""
        return looked_at(self.closing) if self.closing is not None else None


class Later:
    """A session's record, or what is kept of it once the session has gone, for those who must not keep the record."""

    __slots__ = ("_record", "past")

    def __init__(self, record: SessionRecord) -> None:
        self._record = weakref.ref(record)
        self.past: PastSession | None = None

    def known(self) -> SessionRecord | PastSession | None:
        """None where nothing is kept any more."""
        return self.past or self._record()


class SessionRecord(Lifetime):
    """One life of a session, from its opening (or its first use after a close) to its close.

    ``reference`` is the weak reference that the session's states share, None until its first transaction:
    a session that began none holds nothing. Times are seconds of `time.perf_counter`.
    """

    # What every working session sets: one that does nothing else has no dictionary at all.
    __slots__ = (
        "__dict__", "__weakref__", "active", "added", "began", "began_at", "callers", "closed_how", "closed_scope",
        "closing", "connections", "ended_by", "exiting", "failure", "finished", "gets", "held", "inside", "last",
        "last_site", "levels", "muted", "number", "opening", "owned", "parent", "pending", "reference", "session_id",
        "started", "statements", "tracker", "unit", "unplaced",
    )  # fmt: skip
    # Of all others the defaults live on the class.
    kind = "sync"
    session_id: int
    reference: Any
    unit: Unit | None
    allowances: Any = ()
    errors_at_open: tuple[Any, ...] = ()  # exceptions that were being handled when it was opened, see `recognised`
    finished: float | None
    closed_how: str | None
    closed_scope: str | None  # with, generator, registry, unit or hand
    closer: Any = None  # code of the generator that closed it
    exiting: Any  # what AsyncSession knew before close() moved to a task of its own
    reused = False
    muted: bool  # not one of the target's sessions, or told already
    leaked = False  # reported as a leak already
    told_of_transaction = False  # the driver has told that it is in one, where that is not certain
    external = False  # joined to a transaction that somebody else began
    owned: tuple[int, ...]  # id() of the connections whose commit is this session's
    databases: frozenset[Any] = frozenset()  # that it worked on: host, port, name and schemas
    working: Any = None  # owner of its transaction, see hooks.identities
    changes: tuple[Any, ...] = ()  # rows that it changed in this transaction while another session held them
    outdated: dict[Any, Any] | None = None  # rows that others changed since this session loaded them
    copied: Any = NOTHING  # its instances that others merged, by their identity, see hooks.identities
    temporary: frozenset[str] = frozenset()  # tables that it made by a statement given as text
    taken: Raw | None = None  # who asked a registry for it last
    consumer: RawSite | None = None  # who runs the generator that opened it
    entered: RawSite | None = None  # who entered the context manager that opened it
    began: float | None
    connections: int
    statements: int
    flushes = 0
    written: Any = NOTHING  # rows by verb
    ended_by: str | None  # committed or rolled_back: how its transaction comes to its end
    last: str | None
    last_site: RawSite | None
    levels: tuple[dict[Any, Entry], ...]  # what was written, a dictionary a savepoint; the innermost last
    within: Any = NOTHING  # by id() of a connection that it wrote on: the transaction that it did so in
    later: Later | None = None  # for those who ask when the session has gone, and must not keep its record
    added: Mark | None  # the transaction's first add()
    pending: Any  # the session's own collections of new, deleted and modified states
    expirer: tuple[Mark, str] | None = None  # the newest commit or rollback that expired its instances
    origin: Any = None  # who wrote first in its transaction, see hooks.discards
    dropped: Any = ()  # what was written before the rollback that is under way
    discarded: Any = None  # what a rollback took along of a caller
    published: Any = None  # what somebody else committed on its connection, see hooks.sharing
    promised = False  # it had written when its request was answered
    expiries = 0  # how often that happened
    loads: Any = NOTHING  # by place and attribute, see hooks.loads
    gets: Any  # the same of this transaction's get()s, by place and mapper
    roots: Any = NOTHING  # the number of a lazy load's or a refresh's run -> that of the query that it goes back to
    committed = rolled_back = False
    failed_at: float | None = None  # when its transaction was last rolled back
    failure: Any  # a database error that was not rolled back, see hooks.database_errors
    inside: FrameType | None  # our own frame around the statement that is being run, for as long as it runs
    overlapped: str | None = None  # the story of two that were inside at the same time, once it has been told
    callers: tuple[Any, ...]  # the calls of the user's functions that opened it, see `activation`
    waiting: Exception | None = None  # to be raised when it is closed
    held: Any  # of its transaction, as of watchdog.Holding, while somebody watches
    began_at: RawSite | None  # of the first statement, or of what asked for the connection
    unplaced: bool  # nobody has looked for that place yet
    active: float  # when its last statement, or the last chunk of a stream, was over, by the watchdog's clock
    moves = 0  # chunks fetched in the transaction so far
    streaming = False  # the last one was not empty
    life: Any = None  # what it did and when, while there is a recording: recording.Life
    parent: Any  # the context of the span that was current when it was opened, in telemetry
    found: tuple[Any, ...] = ()  # what its own span is to say of its findings, in telemetry

    def __init__(self, tracker: Any, opening: Raw | None) -> None:
        self.number = next(_numbers)
        self.tracker = tracker
        self.opening = opening
        self.started = perf_counter()
        self.reference = self.closed_how = self.closed_scope = self.closing = self.exiting = self.parent = None
        self.unit = self.held = self.inside = self.failure = self.began = self.began_at = self.ended_by = None
        self.finished = self.last = self.last_site = self.added = None
        self.callers = self.owned = self.levels = self.pending = ()
        self.gets = NOTHING
        self.session_id = self.connections = self.statements = 0
        self.active = 0.0
        self.unplaced = self.muted = False

    def holds(self, number: int, reference: Any, pending: Any) -> None:
        """From now on the session may hold instances: remember by what they are known, and what it has to flush."""
        self.session_id = number
        self.reference = reference
        self.pending = pending

    @property
    def opener(self) -> CodeType | None:
        """The code of the function that opened it."""
        return self.opening[0] if self.opening is not None else None

    @property
    def is_closed(self) -> bool:
        return self.closed_how is not None

    @property
    def executing(self) -> bool:
        """Whether a statement runs at this moment."""
        return self.inside is not None

    def wrote(self, table: Any, verb: str, connection: int, flushed: bool, count: int | None, mark: Mark) -> Entry:
        """Note rows written within the innermost savepoint; returns all that were written there."""
        self.levels = self.levels or ({},)
        level = self.levels[-1]
        place = mark.site
        key = (table, verb, connection, place)
        entry = level.pop(key, None) or Entry(table, verb, connection, flushed, mark)
        entry.add(count, mark)
        level[key] = entry  # newest last
        if count:
            self.count_rows(verb, count)
        return entry

    def count_rows(self, verb: str, count: int) -> None:
        """Rows that a statement wrote, whoever commits them."""
        rows = self.written or {}
        rows[verb] = rows.get(verb, 0) + count
        self.written = rows
        if self.tracker is not None and not self.muted:
            self.tracker.count_rows(verb, count)

    def expired(self, mark: Mark, how: str) -> None:
        """All instances were emptied."""
        self.expirer = mark, how
        self.expiries += 1

    def savepoint(self) -> None:
        self.levels = (*(self.levels or ({},)), {})

    def drop_writes(self) -> None:
        """The innermost savepoint, or the whole transaction, was rolled back."""
        if self.levels:
            self.levels[-1].clear()

    def end_writes(self) -> None:
        """A statement ended the transaction behind the session's back."""
        self.levels = tuple({} for _ in self.levels)

    @property
    def newest(self) -> Mark | None:
        """Where the innermost savepoint wrote last, with the frames around it; None if it wrote nothing."""
        for entry in reversed(self.levels[-1].values()):
            return entry.mark
        return None

    def end_savepoint(self) -> None:
        """Hand up what a released savepoint wrote; a rolled back one has nothing left."""
        if len(self.levels) > 1:
            *_, outer, top = self.levels
            self.levels = self.levels[:-1]
            for key, entry in top.items():
                below = outer.pop(key, None)
                if below is not None:
                    entry.add(below.count, entry.mark)
                    entry.first = below.first
                outer[key] = entry

    def begins_at(self, place: RawSite | None) -> RawSite | None:
        """Note where its transaction began; returns the place."""
        self.began_at, self.unplaced = place, False
        return place

    def fetched(self, more: bool) -> None:
        """Note a chunk of a streamed result."""
        self.moves += 1
        if self.held is not None:
            self.active = self.held[0].clock()
        self.streaming = more

    def end_transaction(self) -> None:
        if self.owned or self.external:
            if self.began is not None and self.tracker is not None:
                outcome = self.ended_by or ("lost" if self.levels and any(self.levels) else "read_only")
                self.tracker.transactions[outcome].append(perf_counter() - self.began)
            self.connections = 0
            self.owned = ()
            if self.external:
                self.external = False
        self.ended_by = self.began = self.added = None
        self.gets = NOTHING
        self.levels = ()
        if self.within:
            self.within = NOTHING
        if self.held is not None:
            held, self.held = self.held, None
            self.unplaced = False
            held[0].ended(self, held[1])
            if self.moves:
                self.moves, self.streaming = 0, False

    def outcome(self, lost: bool, leaked: bool) -> str:
        """committed, rolled_back, read_only, lost or leaked; of a session that is both, what happened to its data."""
        if lost:
            return "lost"
        if leaked:
            return "leaked"
        if self.committed:
            return "committed"
        return "rolled_back" if self.rolled_back else "read_only"

    def seconds_open(self) -> float:
        """How long its transaction has been open; 0.0 without one."""
        return perf_counter() - self.began if self.began is not None else 0.0

    def duration(self) -> float:
        """How long the session lived, or has lived so far."""
        return (self.finished or perf_counter()) - self.started

    def __del__(self) -> None:
        try:
            if self.closed_how is None and not sys.is_finalizing() and self.tracker is not None:
                self.tracker.collected(self)
        except Exception:
            if hasattr(self, "muted"):  # else it is half made: an exception broke off its beginning
                self.tracker.failed("collected")


class ToldRecord(SessionRecord):
    """A session that a finding has called lost or leaked while it is open: it is counted, whatever becomes of it."""

    __slots__ = ()
    told: str

    def outcome(self, lost: bool, leaked: bool) -> str:
        """What it was told to be. Asked when it ends: from then on it is a record as any other."""
        if not self.muted:
            self.tracker.told[self.kind][self.told] -= 1
        self.__class__ = SessionRecord  # type: ignore[assignment]  # mypy: of its own class only
        return self.told


class _Kept(NamedTuple):
    reference: Any
    number: int
    opening: Raw | None
    closing: Raw | None
    closed_how: str | None
    kind: str
    seconds: float
    statements: int
    flushes: int
    committed: bool
    databases: frozenset[Any]
    expirer: Any
    unit: Unit | None
    allowances: Any


class PastSession(Lifetime, _Kept):
    """What is asked for on account of the instances of a session that has ended; see `Ledger.keep`.

    A third of the record's size, which goes with the session. A tuple is made by one call.
    """

    __slots__ = ()
    __eq__, __hash__ = object.__eq__, object.__hash__  # each is its own
    roots = NOTHING
    reused = False  # who took it last is not kept

    def duration(self) -> float:
        """How long the session lived."""
        return self.seconds


Known = SessionRecord | PastSession  # a session that goes on may have let go of instances
