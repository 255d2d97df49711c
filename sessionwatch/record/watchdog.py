"""The watchdog: a thread that sees what is wrong while it happens, because nothing calls us then.

It exists only once a transaction began while a rule that needs it is on. While one is open it looks at
them now and then; while none is, it waits without a time-out, and the next that begins wakes it. No
statement pays for it: it samples the records' counters, so that times are measured to within a sample.
It holds sessions' records for a moment only, and never a session: whoever drops a session last ends it,
and some drivers' connections may be ended by the thread that made them only.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import perf_counter
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..frames import tasks, whereabouts
from ..model import Limits, Mark
from .events import Event, TransactionOverdue
from .parts import Holder

if TYPE_CHECKING:
    from .life import SessionRecord

KINDS: tuple[type[Event], ...] = (TransactionOverdue,)  # of events that it makes
_PATIENCE = 2.0  # seconds to wait for the thread to end
_BREATH = 0.1  # seconds after a round that failed
_ROUNDING = 1e-6  # seconds
_LEAST = 0.01  # seconds; a limit of nothing must not become a loop without a pause


class Holding(NamedTuple):
    """One open transaction of a session: who began it, since when (seconds of the clock), and what it holds.

    A session's record keeps it as a plain tuple, which is cheaper: most transactions end before anybody looks.
    """

    watchdog: Watchdog
    since: float
    ident: int  # of the thread
    thread: str
    task: Any  # a weak reference to the task, or to the greenlet of gevent or eventlet; None in a plain thread
    task_name: str | None
    allowances: Any
    pools: tuple[Any, ...]  # that its connections are from
    transactional: bool  # not in AUTOCOMMIT


class Bell:
    """Ends the wait of one thread. A bare lock: the collector may make a program ring it at any moment, and what
    `threading.Event` is made of can't be entered twice by one thread.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for one ring, with a limit if given: whether it rang."""
        return self._lock.acquire(timeout=-1 if seconds is None else seconds)

    def ring(self) -> None:
        with suppress(RuntimeError, ValueError):  # it rings already; the second is gevent's
            self._lock.release()


class Look:
    """What the watchdog has seen of an open transaction, from its first look on."""

    __slots__ = ("at_rest", "counted", "moves", "record", "reported", "since")

    def __init__(self, record: weakref.ref[SessionRecord], since: float) -> None:
        self.record = record
        self.since = self.counted = self.at_rest = since
        self.moves = 0  # chunks at the last look
        self.reported: tuple[type[Event], ...] = ()  # what was made of it


def began(record: SessionRecord, holding: Holding) -> Mark:
    """Where a transaction began, and in which thread and task."""
    return Mark(record.began_at, holding.thread, holding.task_name)


class Watchdog:
    """Samples the open transactions. ``clock`` gives seconds."""

    def __init__(
        self,
        emit: Callable[[Event, Any], object],
        ended: Callable[[SessionRecord, float, tuple[type[Event], ...]], None],
        failed: Callable[[str], None],
        limits: Limits,
    ) -> None:
        self.clock: Callable[[], float] = perf_counter
        self.describe: Callable[[Any], str] = lambda connection: "another connection"
        self.parked = True  # nothing is open: whoever begins has to wake it
        self._emit, self._ended, self._failed = emit, ended, failed
        self._seconds, self._idle = max(limits.open, _LEAST), max(limits.idle, _LEAST)
        self._step = min(self._seconds, self._idle) / 2
        # By the number of the record: the hook of the transaction's begin puts in the reference alone.
        self.holdings: dict[int, weakref.ref[SessionRecord] | Look] = {}
        self._looking = threading.RLock()
        self._found: list[tuple[Event, Any]] = []  # by the look that is being taken: said once the lock is free
        self._bell = Bell()  # one for each thread: whose bell is not this one any more ends
        self._thread: threading.Thread | None = None
        self.retired = False  # while its installation is paused, and once it has ended
        self._green = False  # it is a greenlet
        self.attend: Callable[[], None] = lambda: None  # what else its thread has to do, each time that it wakes

    # -- what the hooks tell --------------------------------------------------------------------------

    def ended(self, record: SessionRecord, since: float) -> None:
        """A record's transaction is over."""
        look = self.holdings.pop(record.number, None)
        if type(look) is Look and look.reported and not record.muted:
            self._ended(record, self.clock() - since, look.reported)

    def wake(self) -> None:
        """Start the thread, or end its wait."""
        self.parked = False
        if self._thread is not None:
            self._bell.ring()
            return
        if self.retired or sys.is_finalizing():  # a session in somebody's __del__: a thread would never come to run
            return
        self._bell = bell = Bell()
        self._thread = threading.Thread(target=self._run, args=(bell,), name="sessionwatch", daemon=True)
        with suppress(RuntimeError):  # the interpreter is about to end, or has no more threads to give
            self._thread.start()
        if self._bell is not bell:  # stopped meanwhile: that thread ends by itself
            self._thread = None

    def ring(self) -> bool:
        """Have its thread `attend`; whether there is one, other than this."""
        thread = self._thread
        if thread is None:
            return False
        self._bell.ring()
        return not self._green and thread is not threading.current_thread()

    # -- life -----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the thread and wait for it; the next transaction that begins starts another.

        Under gevent and eventlet it is a greenlet of the caller's thread: to wait would run the program's others.
        """
        thread, self._thread = self._thread, None
        bell, self._bell = self._bell, Bell()
        bell.ring()
        if thread is not None and not self._green and thread is not threading.current_thread() and thread.is_alive():
            thread.join(_PATIENCE)
        self.parked = True

    def retire(self) -> None:
        """Stop: no transaction that begins while its installation ends, or is paused, starts another thread."""
        self.retired = True
        self.stop()

    def renew(self) -> None:
        """In a forked child: there is no thread, and what is open is the parent's."""
        self._thread, self._looking, self._bell = None, threading.RLock(), Bell()
        self.holdings.clear()
        self.parked = True

    def _run(self, mine: Bell) -> None:
        """The thread. What fails in it is told, and the next round is tried."""
        try:
            self._withdraw()
        except Exception:
            self._failed("watchdog")
        wait: float | None = self._step
        while self._bell is mine:
            try:
                wait = self._round(mine, wait)
            except Exception:
                self._failed("watchdog")
                wait = self._step
                time.sleep(min(self._step, _BREATH))

    def _withdraw(self) -> None:
        """Signals are for the program's own threads."""
        self._green = tasks.in_greenlet()
        if sys.platform != "win32" and hasattr(signal, "pthread_sigmask") and not self._green:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    def _round(self, mine: Bell, wait: float | None) -> float | None:
        """Attend, wait and look; how long to wait in the next round."""
        self._attend()
        if wait is None:
            self.parked = True
            wait = self.tick()  # one may have begun before it could see that
            if wait is None:
                mine.wait()
                wait = self._step
            if self._bell is mine:
                self.parked = False
        elif not mine.wait(wait):
            wait = self.tick()
        return wait

    def _attend(self) -> None:
        try:
            self.attend()
        except Exception:
            self._failed("watchdog")

    # -- looking --------------------------------------------------------------------------------------

    def tick(self) -> float | None:
        """Look at every open transaction once: seconds until the next look, None where nothing can be due."""
        with self._looking:
            now = self.clock()
            dues = [self._guarded(number, now) for number in list(self.holdings)]
            found, self._found = self._found, []
        for event, allowances in found:
            try:
                self._emit(event, allowances)
            except Exception:
                self._failed("watchdog")
        waits = [due - now for due in dues if due is not None]
        return max(_LEAST, min(self._step, *waits)) if waits else None

    def _guarded(self, number: int, now: float) -> float | None:
        try:
            look = self.holdings.get(number)
            record, holding = _held(look)
            if look is None or record is None or holding is None or record.muted:
                self.holdings.pop(number, None)
                return None
            if not isinstance(look, Look) or look.since != holding.since:
                look = self.holdings[number] = Look(weakref.ref(record), holding.since)
                if record.held is None:  # it ended meanwhile
                    self.holdings.pop(number, None)
            return self._look(record, holding, look, now)
        except Exception:
            self._failed("watchdog")
            return None

    def _look(self, record: SessionRecord, holding: Holding, look: Look, now: float) -> float | None:
        """Report what is due; when the next thing can be due, None for never."""
        if record.executing:
            look.at_rest = now
        look.at_rest = max(look.at_rest, record.active)
        if record.moves != look.moves:
            look.moves, look.counted = record.moves, record.active  # a stream takes the time that it takes
        quiet = now - look.at_rest + _ROUNDING
        if record.streaming and quiet < self._seconds:
            return look.at_rest + self._seconds
        if holding.transactional and not look.reported:
            return self._look_at_time(record, holding, look, now, quiet)
        return None

    def _look_at_time(self, record: SessionRecord, holding: Holding, look: Look, now: float, quiet: float) -> float:
        open_for = now - look.counted + _ROUNDING
        why: Any = "idle" if quiet >= self._idle else "open" if open_for >= self._seconds else None
        if why is None:
            return min(look.at_rest + self._idle, look.counted + self._seconds)
        holder, busy = self._holder(record, holding)
        if why == "idle" and busy:  # fetching or flushing
            look.at_rest = now
            return now + self._idle
        look.reported += (TransactionOverdue,)
        limit = self._idle if why == "idle" else self._seconds
        self._found.append((TransactionOverdue(holder, why, limit), (*record.allowances, *holding.allowances)))
        return now + self._step

    # -- who holds it ---------------------------------------------------------------------------------

    def holder(self, record: SessionRecord, holding: Holding) -> Holder:
        """Who holds a transaction, and where they are now."""
        return self._holder(record, holding)[0]

    def _holder(self, record: SessionRecord, holding: Holding) -> tuple[Holder, bool]:
        """The same, and whether they are at work in the session itself."""
        mark = began(record, holding)
        places = (record.opened.site if record.opened else None, mark.site, record.last_site)
        codes: frozenset[CodeType] = frozenset(place.code for place in places if place is not None)
        if holding.task is not None:
            now = whereabouts.of_task(holding.task(), holding.ident, codes)
        else:
            now = whereabouts.of_thread(holding.ident, codes)
        site = now.site.resolve() if now.site is not None else None
        executing = record.executing
        elsewhere = self._elsewhere(record, holding, now) if now.busy and not executing else ""
        related = now.related and not self._went_on(record, holding)
        seconds = self.clock() - holding.since
        holder = Holder(record, mark, site, now.gone, executing, related, seconds, elsewhere)
        return holder, executing or (now.busy and not elsewhere)

    def _elsewhere(self, record: SessionRecord, holding: Holding, now: whereabouts.Whereabouts) -> str:
        """What somebody is in who is in a call of SQLAlchemy's, but in no statement of the session."""
        others = (other for other in self._of_the_same(record, holding) if other.executing)
        found = next(others, None)
        if found is not None:
            return f"session {found.label}"
        if now.pool:
            return "the wait for another connection of a pool"
        if now.statement is not None:
            return self.describe(now.statement)
        # what a coroutine waits for in SQLAlchemy's greenlet can't be looked at from here
        return "a call of SQLAlchemy's that is no statement of this session" if holding.task_name else ""

    def _went_on(self, record: SessionRecord, holding: Holding) -> bool:
        """Whether the same function has opened a newer session, so that it is not at work in this one."""
        opening = record.opening[0] if record.opening is not None else None
        newer = (other for other in self._of_the_same(record, holding) if other.number > record.number)
        return any(other.opening is not None and other.opening[0] is opening for other in newer)

    def _of_the_same(self, record: SessionRecord, holding: Holding) -> Iterator[SessionRecord]:
        """The records of the other transactions that the same thread, or task, has begun."""
        for look in list(self.holdings.values()):
            other, held = _held(look)
            if other is None or other is record or held is None or held.ident != holding.ident:
                continue
            if (held.task and held.task()) is (holding.task and holding.task()):
                yield other

    def holders(self, pool: int | None = None) -> list[Holder]:
        """Everybody who is in a transaction now, the oldest first; ``pool``: the id() of the only pool that counts."""
        return self._holders(lambda look, holding: pool is None or pool in map(id, holding.pools))

    def reported(self, kinds: tuple[type, ...]) -> list[Holder]:
        """Those of `holders` of which an event of these types was made."""
        return self._holders(lambda look, holding: isinstance(look, Look) and not {*kinds}.isdisjoint(look.reported))

    def _holders(self, counts: Callable[[Any, Holding], bool]) -> list[Holder]:
        found = []
        for look in list(self.holdings.values()):
            record, holding = _held(look)
            if record is not None and holding is not None and not record.muted and counts(look, holding):
                found.append(self.holder(record, holding))
        return sorted(found, key=lambda holder: -holder.seconds)


def _held(look: weakref.ref[SessionRecord] | Look | None) -> tuple[SessionRecord | None, Holding | None]:
    """The record of an entry, if it is still there, and what it holds."""
    reference = look.record if isinstance(look, Look) else look
    record = reference() if reference is not None else None
    held = record.held if record is not None else None
    return record, Holding(*held) if held is not None else None
