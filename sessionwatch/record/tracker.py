"""What the hooks share: the ledger, the guard around our own errors, counters, and the way to the rules."""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextlib import suppress as suppress_all
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from ..border import is_foreign
from ..frames import activation, callsite, chain
from ..saying import say
from ..units.scope import Unit, current_unit
from .allowances import Allowance, active_allowances
from .events import ENDS, Event
from .found import FindingCounts
from .key import KEY
from .life import SessionRecord, recognised
from .notes import Notes, in_finalizer

if TYPE_CHECKING:
    from ..model import Mark
    from .ledger import Ledger

_PLAIN: Any = object.__setattr__

Queue = deque[Any]  # samples of one series of a histogram that wait
MANY = 64  # from which on whoever adds one sees to all queues
_QUEUED = 65_536  # that wait at most; the oldest are dropped
_GENERATOR = 0x20 | 0x200  # CO_GENERATOR, CO_ASYNC_GENERATOR
_LATER_LIMIT = 100  # a callback that makes findings itself must not keep us for ever


def queue() -> Queue:
    """One that is bounded."""
    return deque(maxlen=_QUEUED)


class Ends:
    """How many sessions of one kind ended with one outcome. ``queue``: seconds and statements of each."""

    __slots__ = ("count", "queue")

    def __init__(self) -> None:
        self.count = 0
        self.queue = queue()


class Tracker:
    """One installation's working memory. ``emit`` takes an event and returns an exception to raise, or None."""

    def __init__(
        self,
        emit: Callable[[Event, tuple[Allowance, ...]], Exception | None],
        ledger: Ledger,
        wants: Callable[[Any], bool] | None = None,
    ) -> None:
        self.active = True
        self.ledger = ledger
        self.wants = wants  # None: every session
        self.reraise = bool(os.environ.get("SESSIONWATCH_TESTING"))  # our own tests see our own errors
        self.discreet = False  # whether messages of exceptions, which may quote values, stay out of the log
        self.activations = False  # whether it matters which call of a function opened a session
        # plain dictionaries with every key in them: to add one to a Counter is a call of a Python function
        self.opened_by_kind: dict[str, int] = {}
        self.ends: dict[str, dict[str, Ends]] = {}  # by kind and outcome
        self.recent: tuple[int, Any] | None = None  # a thread's number, and the place of the statement that it just ran
        self.wrote = 0  # rises with each statement of a session's that wrote
        self.totals: dict[str, int] = {}  # statements, flushes
        self.written: dict[str, int] = {}  # rows by verb
        self.lazy_loads: Counter[tuple[str, ...]] = Counter()  # by kind; with ``pairs`` by model and attribute too
        self.found = FindingCounts()
        self.internal_errors: Counter[str] = Counter()
        self.pairs: Callable[[str, str], tuple[str, str]] | None = None  # models and attributes as they are counted
        self.transactions: dict[str, Queue] = {}  # by outcome: seconds
        self.connections: dict[str, tuple[Queue, ...]] = {}  # by pool: seconds of waits, of uses, and to create one
        self._seed()
        self.forked = 0.0  # when this process was forked off, in seconds since the epoch; 0.0 for the first one
        self.parent, self._process = 0, os.getpid()
        self.connected: WeakKeyDictionary[Any, Mark] = WeakKeyDictionary()  # where a pool's connections were opened
        self.inherited: WeakSet[Any] = WeakSet()  # those of the parent's that were looked at
        self._emit = emit
        self._busy = threading.local()
        self.notes = Notes(self.failed, lambda: bool(getattr(self._busy, "depth", 0)))
        self.when_opened: Callable[[SessionRecord], None] | None = None  # in telemetry
        self.when_ended: Callable[[SessionRecord, str], None] | None = None  # with its outcome; after its findings
        self.when_grown: Callable[[], None] = lambda: None  # what waits for the histograms has become much
        self.when_collected: Callable[[SessionRecord], tuple[Event | None, str]] = lambda record: (None, "")
        self.when_pool_ran_dry: Callable[[BaseException, int, int], None] = lambda error, pool, out: None

    # -- sessions -------------------------------------------------------------------------------------

    def open(self, session: Any, frame: FrameType, kind: str = "sync") -> SessionRecord | None:
        """Begin a record for a session that was just made; None if it is not one of the target's."""
        if self.wants is not None and not self.wants(session):
            session.__dict__[KEY] = None
            return None
        if self.notes.waiting:
            self.notes.say()
        opening = callsite.raw(frame)
        record = self._record(session, opening, current_unit())
        if chain.keeps:
            around = chain.opened(opening[0], frame)
            if around:
                record.around = around
        error = sys.exception()
        if error is not None:
            record.errors_at_open = tuple(_handled(error))
        code = opening[0]
        if code is not None and code.co_flags & _GENERATOR:
            record.consumer = _consumer(frame, code)
        if self.activations and record.unit is None:
            record.callers = activation.callers(frame)
        self.opened_by_kind[kind] += 1
        return record

    def adopt(self, session: Any) -> SessionRecord | None:
        """A record for a session that was opened before the installation."""
        if not self.active or KEY in session.__dict__ or "identity_map" not in session.__dict__:
            return None
        if self.wants is not None and not self.wants(session):
            session.__dict__[KEY] = None
            return None
        self.opened_by_kind["sync"] += 1
        return self._record(session, None, None)  # it may be older than the unit that it is used in

    def reopen(self, session: Any, before: SessionRecord, frame: FrameType) -> SessionRecord:
        """A new record for a session that is used again after a close."""
        record = self._record(session, before.opening, current_unit())
        record.kind = before.kind
        record.allowances = before.allowances
        record.consumer = before.consumer
        record.around = before.around
        record.taken = before.taken
        record.reused = True
        if self.activations and record.unit is None:
            record.callers = activation.callers(frame)
        self.opened_by_kind[record.kind] += 1
        return record

    def _record(self, session: Any, opening: callsite.Raw | None, unit: Unit | None) -> SessionRecord:
        record = SessionRecord(self, opening)
        allowances = active_allowances()
        if allowances:
            record.allowances = allowances
        # KEY, set as an attribute: a session whose __dict__ nobody asked for has none, and is faster to use
        if type(session).__setattr__ is _PLAIN:
            session._sessionwatch = record
        else:
            object.__setattr__(session, KEY, record)  # a subclass guards its attributes
        if unit is not None:
            record.unit = unit
            unit.opened(record)
        if self.when_opened is not None:
            self.when_opened(record)
        return record

    def closed(self, record: SessionRecord, lost: bool = False, leaked: bool = False) -> str:
        """Add a finished session to the totals and keep its record for later questions; returns its outcome."""
        worked = record.reference is not None  # else it never began a transaction: no instance will ever ask for it
        outcome = record.outcome(lost, leaked) if worked else "read_only"
        if worked:
            self.ledger.keep(record)
        if record.muted:  # opened before the fork: the parent counts it
            return outcome
        if worked:
            self.totals["statements"] += record.statements
        ends = self.ends[record.kind][outcome]
        ends.count += 1
        waiting = ends.queue
        waiting.append((record.finished - record.started, record.statements))  # type: ignore[operator]
        if len(waiting) >= MANY and not self.notes.collecting:
            self.when_grown()
        return outcome

    def collected(self, record: SessionRecord) -> None:
        """A session was collected unclosed. Called by the collector, at any moment: touch little."""
        if not self.active or record.muted:
            return
        with self.notes.by_collector("collected"):
            event, outcome = self.when_collected(record)
            if event is None and self.when_ended is None:
                return
            allowances = (*record.allowances, *active_allowances())
            self.notes.note(lambda: self._last_words(record, event, outcome, allowances))

    def _last_words(self, record: SessionRecord, event: Event | None, outcome: str, allowances: Any) -> None:
        if event is not None:
            self.emit(event, allowances)
        if self.when_ended is not None:
            self.when_ended(record, outcome)

    # -- the way to the rules -------------------------------------------------------------------------

    def emit(self, event: Event, allowances: tuple[Allowance, ...] = ()) -> Exception | None:
        """Hand an event to the rules; what comes back is to be raised at a safe point."""
        if getattr(self._busy, "depth", 0):
            if isinstance(event, ENDS):  # the collector ran the program's own finalizers inside of our work
                self._busy.later.append((event, (*allowances, *active_allowances())))
            return None
        if isinstance(event, ENDS) and not self.notes.collecting and in_finalizer():
            allowances = (*allowances, *active_allowances())
            self.notes.note(lambda: self.emit(event, allowances))
            return None
        self._busy.depth, self._busy.later = 1, []
        try:
            raised = self._emit(event, (*allowances, *active_allowances()))
            for later in itertools.islice(self._busy.later, _LATER_LIMIT):  # may grow meanwhile
                self._emit(*later)
            return raised
        finally:
            self._busy.depth = 0
            if self.notes and not self.notes.collecting:
                self.notes.say()

    def loaded(self, record: SessionRecord, kind: str, model: str, attribute: str) -> None:
        """Count a lazy load: of a relationship, a deferred or an expired column."""
        if record.muted:
            return
        key = (kind,) if self.pairs is None else (kind, *self.pairs(model, attribute))
        self.lazy_loads.setdefault(key, 0)
        self.lazy_loads[key] += 1

    def count_rows(self, verb: str, count: int) -> None:
        """Count the rows that a statement wrote."""
        if verb not in self.written:
            self.written.setdefault(verb, 0)
        self.written[verb] += count

    def renew(self) -> None:
        """In a forked child: no other thread is left that could be at work in here."""
        self.forked = time.time()
        self.parent, self._process = self._process, os.getpid()
        self.inherited.clear()
        self._busy = threading.local()
        self.notes.forget()
        counters = (self.opened_by_kind, self.totals, self.written, self.lazy_loads)
        for counter in (*counters, self.internal_errors):
            counter.clear()
        self.found.clear()
        self.forget_samples()
        self._seed()

    def samples(self) -> Iterator[Queue]:
        """The queue of each series that waits for the histograms."""
        ends = (ends.queue for by_outcome in self.ends.values() for ends in by_outcome.values())
        return itertools.chain(ends, self.transactions.values(), *self.connections.copy().values())

    def forget_samples(self) -> None:
        """Nothing waits for the histograms any more."""
        for queue in self.samples():
            queue.clear()

    def _seed(self) -> None:
        """Every key that is known from the start: adding to one that is there can't be interrupted by a thread."""
        self.opened_by_kind.update(dict.fromkeys(("sync", "async"), 0))
        self.written.update(dict.fromkeys(("inserted", "updated", "deleted"), 0))
        for outcome in ("committed", "rolled_back", "read_only", "lost", "leaked"):
            self.transactions.setdefault(outcome, queue())
            for kind in ("sync", "async"):
                self.ends.setdefault(kind, {}).setdefault(outcome, Ends()).count = 0
        self.totals.update(dict.fromkeys(("statements", "flushes"), 0))

    # -- our own errors -------------------------------------------------------------------------------

    @contextmanager
    def guarded(self, hook: str) -> Iterator[None]:
        """Keep an error of ours away from the host program. For slow paths; hot ones write it out."""
        try:
            yield
        except Exception:
            self.failed(hook)

    def failed(self, hook: str) -> None:
        """Count and log the exception that is being handled; raise it again under our own tests.

        And where it is none of ours: see `border`.
        """
        if is_foreign(sys.exception()):
            raise
        self.internal_errors[hook] += 1
        path = os.environ.get("SESSIONWATCH_INTERNAL_ERRORS")
        if path:
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"--- {hook}\n{traceback.format_exc()}\n")
        if self.internal_errors[hook] == 1:
            with suppress_all(Exception):  # a handler of the program's may be what failed
                said = "sessionwatch failed in %s; the program is not affected"
                if self.discreet:
                    say(logging.ERROR, f"{said}%s", hook, _discreetly(sys.exception()))
                else:
                    say(logging.ERROR, said, hook, error=sys.exception())
        if self.reraise:
            raise


def _discreetly(error: BaseException | None) -> str:
    """Class and way of an exception; neither its message nor the text of the lines."""
    frames = traceback.extract_tb(error.__traceback__, 20) if error is not None else []
    way = "".join(f"\n  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    return f": {type(error).__name__}{way}"


def _handled(error: BaseException | None) -> Iterator[Any]:
    """The exceptions that are being handled; the newest may be a registry's own KeyError."""
    for _ in range(5):
        if error is not None:
            yield recognised(error)
            error = error.__context__


def _consumer(frame: FrameType | None, generator: CodeType) -> Any:
    """Who runs the generator that opened the session: the user's line outside of it."""
    if generator.co_flags & 0x80:
        return None
    while frame is not None and frame.f_code is not generator:
        frame = frame.f_back
    outside = frame.f_back if frame is not None else None
    if outside is None or callsite.kind_of(outside) != callsite.USER:
        return None
    return callsite.site(outside)
