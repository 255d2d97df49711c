"""The records of sessions: when one begins, begins again, ends or is collected; and what the hooks share."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from time import perf_counter
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary, WeakSet

from ..frames import activation, callsite, chain
from ..units.scope import Unit, current_unit
from .allowances import Allowance, active_allowances
from .counts import MANY, Counts
from .emitter import Emitter
from .key import KEY
from .life import NOTHING, SessionRecord, ToldRecord, recognised

if TYPE_CHECKING:
    from ..frames.callsite import Raw
    from ..model import Mark
    from .events import Event
    from .ledger import Ledger

_PLAIN: Any = object.__setattr__

_GENERATOR = 0x20 | 0x200  # CO_GENERATOR, CO_ASYNC_GENERATOR


class Tracker(Emitter, Counts):
    """One installation's working memory: the sessions that are open, and what the hooks share."""

    def __init__(
        self,
        emit: Callable[[Event, tuple[Allowance, ...]], Exception | None],
        ledger: Ledger,
        wants: Callable[[Any], bool] | None = None,
    ) -> None:
        Emitter.__init__(self, emit)
        Counts.__init__(self)
        self.active = True
        self.ledger = ledger
        self.wants = wants  # None: every session
        self.activations = False  # whether it matters which call of a function opened a session
        self.recent: tuple[int, Any] | None = None  # a thread's number, and the place of the statement that it just ran
        self.writers: set[int] = set()  # id() of two connections at most that sessions have written on and not ended
        self.forked = 0.0  # when this process was forked off, in seconds since the epoch; 0.0 for the first one
        self.parent, self._process = 0, os.getpid()
        self.connected: WeakKeyDictionary[Any, Mark] = WeakKeyDictionary()  # where a pool's connections were opened
        self.inherited: WeakSet[Any] = WeakSet()  # those of the parent's that were looked at
        self.when_opened: Callable[[SessionRecord], None] | None = None  # in telemetry
        self.when_ended: Callable[[SessionRecord, str], None] | None = None  # with its outcome; after its findings
        self.when_grown: Callable[[], None] = lambda: None  # what waits for the histograms has become much
        self.when_collected: Callable[[SessionRecord], tuple[Event | None, str]] = lambda record: (None, "")
        self.when_pool_ran_dry: Callable[[BaseException, Any, str], None] = lambda error, pool, name: None

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
            _consumed(record, frame, code)
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

    def closed(
        self, record: SessionRecord, how: str, closing: Raw | None, lost: bool = False, leaked: bool = False
    ) -> str:
        """A session has ended: let go of what belongs to it, count it, keep its record for later; returns its outcome.

        In one function: each session pays for this.
        """
        record.finished = finished = perf_counter()
        record.closed_how, record.closing = how, closing
        if record.exiting is not None:
            record.exiting = None
        if record.callers:
            record.callers = ()
        outcome = "read_only"
        worked = record.reference is not None  # else it never began a transaction: no instance will ever ask for it
        if worked:
            record.pending = ()
            if record.loads:
                record.loads = NOTHING
            if record.roots:
                record.roots = NOTHING
            record.failure = None
            if record.began is not None:
                record.end_transaction()
            outcome = record.outcome(lost, leaked)
            self.ledger.keep(record)
        if record.muted:  # opened before the fork: the parent counts it
            return outcome
        if worked:
            self.totals["statements"] += record.statements
        ends = self.ends[record.kind][outcome]
        ends.count += 1
        waiting = ends.queue
        waiting.append((finished - record.started, record.statements))
        if len(waiting) >= MANY and not self.notes.collecting:
            self.when_grown()
        return outcome

    def tell(self, record: SessionRecord, outcome: str) -> None:
        """Count a session that goes on as lost or leaked: a finding has said so."""
        if type(record) is SessionRecord and not record.muted and record.closed_how is None:
            record.__class__ = ToldRecord
            told = cast("ToldRecord", record)
            told.told = outcome
            self.told[record.kind][outcome] += 1

    def forget(self, record: SessionRecord) -> None:
        """A session is watched no more, and may go on."""
        if record.closed_how is None and not record.muted:
            self.forgotten[record.kind] += 1
        record.muted = True

    def left_open(self, record: SessionRecord, lost: bool, leaked: bool) -> str:
        """Count a session that is open when the program ends; returns its outcome."""
        outcome = record.outcome(lost, leaked)
        now = perf_counter()
        if record.began is not None and (record.owned or record.external):
            self.transactions["lost" if lost else record.ended_by or outcome].append(now - record.began)
        ends = self.ends[record.kind][outcome]
        ends.count += 1
        ends.queue.append((now - record.started, record.statements))
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

    def renew(self) -> None:
        """In a forked child: what was counted is the parent's."""
        self.forked = time.time()
        self.parent, self._process = self._process, os.getpid()
        self.inherited.clear()
        self.begin_anew()
        self.clear()


def _handled(error: BaseException | None) -> Iterator[Any]:
    """The exceptions that are being handled; the newest may be a registry's own KeyError."""
    for _ in range(5):
        if error is not None:
            yield recognised(error)
            error = error.__context__


def _consumed(record: SessionRecord, frame: FrameType | None, generator: CodeType) -> None:
    """Note who runs the generator that opened the session, or enters the context manager that it is."""
    if generator.co_flags & 0x80:
        return
    while frame is not None and frame.f_code is not generator:
        frame = frame.f_back
    outside = frame.f_back if frame is not None else None
    if outside is None:
        return
    if callsite.kind_of(outside) == callsite.USER:
        record.consumer = callsite.site(outside)
        return
    user = outside.f_back if outside.f_globals.get("__name__") == "contextlib" else None
    if user is not None and callsite.kind_of(user) == callsite.USER:
        record.entered = callsite.site(user)
