"""The metrics of one installation: from its plain integers and queues to the instruments.

A hook only adds to an integer, or to the queue of a series: it may be the collector that runs it, at a moment
when this thread holds a lock of the SDK. The queues are emptied when a reader collects, and by whoever makes one
long, where nothing of the SDK is on its stack.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import repeat
from types import FrameType
from typing import TYPE_CHECKING, Any

from opentelemetry import context
from opentelemetry.metrics import NoOpMeterProvider, get_meter_provider

from ..saying import unlocked
from .batches import record as record_batch
from .instruments import TOTALS, Instruments, Values, is_stand_in, of_provider
from .table import (
    ATTRIBUTE,
    FILE,
    FUNCTION,
    HOOK,
    HOOKS,
    LOAD_KIND,
    LOAD_KINDS,
    MODE,
    MODEL,
    OPERATION,
    OUTCOME,
    OUTCOMES,
    POOL,
    RULE,
    SESSION_KIND,
    SESSION_KINDS,
    SINK,
    STATE,
    UNIT,
)

if TYPE_CHECKING:
    from ..record.counts import Queue
    from ..record.tracker import Tracker

OTHER = "other"
_WRITERS = ("output", "recording")  # guards around what is ours and writes
_HOLDS_LOCKS = ("opentelemetry.sdk.metrics", "opentelemetry.metrics", "opentelemetry.util")
_VERBS = {"inserted": "INSERT", "updated": "UPDATE", "deleted": "DELETE"}
_OF_POOLS = tuple(f"db.client.connection.{name}" for name in ("wait_time", "use_time", "create_time"))
_PATIENCE = 1.0  # seconds that a collection waits for a thread that empties the queues


@dataclass(slots=True, eq=False, repr=False)
class Source:
    """Where the numbers of one installation are."""

    tracker: Tracker
    mode: Callable[[], str]
    rules: Callable[[], Iterable[str]]  # slugs of those that are on
    at_exit: Callable[[], None]  # what is found when the program ends; may be called twice
    pools: Callable[[str], Mapping[tuple[str, ...], int]]  # of a metric: by pool, or by pool and state


class Pairs:
    """Models and attributes as attributes of a metric: the first ``cap`` pairs, the rest as ``other``."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self._known: set[tuple[str, str]] = set()

    def __call__(self, model: str, attribute: str) -> tuple[str, str]:
        pair = (model, attribute)
        if pair in self._known:
            return pair
        if len(self._known) >= self.cap:
            return OTHER, OTHER
        self._known.add(pair)
        return pair


class Metrics:
    """Reads what an installation has counted, and hands it to the meter provider in force."""

    def __init__(self, source: Source, pairs: Pairs | None = None, clock: Callable[[], float] = time.time) -> None:
        self.source = source
        self._clock = clock
        self.collected: float | None = None  # when a reader collected last, in seconds since the epoch
        tracker = source.tracker
        tracker.pairs = pairs
        tracker.when_grown = self.grown
        self._given: Any = None  # a meter provider that is not the global one
        self._provider: Any = None
        self._instruments: Instruments | None = None
        self._inherited: Any = None  # a fork's provider: a lock of it may be held by a thread that is no more
        self._recording: deque[None] = deque()  # one for each thread that records what it took; no lock: see `drain`
        self._ended = False  # the program
        self._read = self.read  # one object, so that it can be recognised

    # -- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Export from now on."""
        with self.source.tracker.guarded("telemetry"):
            TOTALS.begin(self._read, self.collecting)
        unlocked(self._follow)

    def stop(self) -> None:
        """What was counted stays with the readers."""
        with self.source.tracker.guarded("telemetry"):
            TOTALS.end(self._read)
        unlocked(self._hand_over)

    def _follow(self) -> None:
        with self.source.tracker.guarded("telemetry"):
            self.look()

    def _hand_over(self) -> None:
        with self.source.tracker.guarded("telemetry"):
            if not self._is_inherited():
                self.drain(_PATIENCE)

    def use(self, meter_provider: Any = None) -> None:
        """Export to a meter provider of its own; None: to the global one."""
        self._given = meter_provider
        unlocked(self._follow)

    def look(self) -> None:
        """Follow the meter provider in force: one may be set, or replaced, at any time."""
        provider = self.provider()
        if provider is not self._provider or TOTALS.instruments is not self._instruments:
            self._instruments = TOTALS.instruments = None
            self._provider = provider  # asked once, if it can't make them
            self._instruments = of_provider(provider)
            TOTALS.export_by(self._instruments)

    def _is_inherited(self) -> bool:
        return self._inherited is not None and self._inherited is self.provider()

    def provider(self) -> Any:
        """The meter provider in force; before a global one is set, the API's stand-in for it."""
        return self._given if self._given is not None else get_meter_provider()

    def before_fork(self) -> None:
        """No thread may be recording, and hold a lock that the child needs."""
        self._wait()

    def forked(self, child: bool) -> None:
        """After `before_fork`, in both processes."""
        if child:
            self._recording.clear()
            provider = self.provider()
            self._inherited = None if is_stand_in(provider) else provider
            TOTALS.forked(provider)

    def status(self) -> dict[str, Any]:
        """Who exports, and what waits for the histograms."""
        with self.source.tracker.guarded("telemetry"):
            self.look()
        kind = type(self._provider)
        return {
            "last_export": self._last_export(),
            "meter_provider": f"{kind.__module__}.{kind.__qualname__}",
            "waiting": sum(map(len, self.source.tracker.samples())),
        }

    def is_exported(self) -> bool:
        """Whether there is a provider that may export something."""
        return not is_stand_in(self.provider()) and not isinstance(self.provider(), NoOpMeterProvider)

    def _last_export(self) -> str | None:
        """When a reader collected last, which it does to export; None before."""
        if self.collected is None:
            return None
        return datetime.fromtimestamp(self.collected, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

    # -- from queues to histograms ------------------------------------------------------------------------

    def grown(self) -> None:
        """A queue has grown long. Called by whoever ended a session, which may be the collector, or connected."""
        if self._is_inherited():
            return  # recorded when the child's reader collects
        if _inside_sdk(sys._getframe(1)):
            return
        with self.source.tracker.guarded("telemetry"):
            self.look()
        if self._instruments is None or is_stand_in(self._provider):  # nobody will ever take them
            self.source.tracker.forget_samples()
            return
        with self.source.tracker.guarded("telemetry"):
            self.drain(0)

    def collecting(self) -> None:
        """A reader begins to collect."""
        self.collected = self._clock()
        with self.source.tracker.guarded("telemetry"):
            if not self._ended and not threading.main_thread().is_alive():  # the SDK's exit comes before ours
                self._ended = True
                self.source.at_exit()
            self.drain(_PATIENCE)

    def drain(self, patience: float) -> None:
        """Record what waits; with ``patience``, wait for threads that are at it already.

        The SDK is called under no lock of ours: it has its own, and the collector, or another thread that holds one of
        those, may come here.
        """
        if self._instruments is not None and any(self.source.tracker.samples()):
            token = context.attach(context.Context())  # these samples are not of the span that is current here
            self._recording.append(None)
            try:
                self._record(self.source.tracker, self._instruments.histograms)
            finally:
                self._recording.pop()
                context.detach(token)
        if patience:
            self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + _PATIENCE
        while self._recording and time.monotonic() < until:
            time.sleep(0.0005)

    def _record(self, tracker: Tracker, histograms: dict[str, Any]) -> None:
        for kind, by_outcome in tracker.ends.items():
            for outcome, ends in by_outcome.items():
                taken = _taken(ends.queue)
                if taken:
                    durations, statements = zip(*taken, strict=True)
                    attributes = {OUTCOME: outcome, SESSION_KIND: kind}
                    record_batch(histograms["sessionwatch.session.duration"], attributes, durations)
                    record_batch(histograms["sessionwatch.session.statements"], attributes, statements)
        for outcome, queue in tracker.transactions.items():
            taken = _taken(queue)
            if taken:
                record_batch(histograms["sessionwatch.transaction.duration"], {OUTCOME: outcome}, taken)
        for pool, queues in tracker.connections.copy().items():
            for name, queue in zip(_OF_POOLS, queues, strict=True):
                taken = _taken(queue)
                if taken:
                    record_batch(histograms[name], {POOL: pool}, taken)

    # -- from integers to counters ------------------------------------------------------------------------

    def read(self, name: str) -> Values:
        """The series of a counter or an up-down counter, as counted by this installation."""
        reader = _READERS.get(name)
        if reader is not None:
            return reader(self.source)
        return {tuple(zip((POOL, STATE), key, strict=False)): value for key, value in self.source.pools(name).items()}


def forked_without() -> None:
    """In a forked child, while nothing is installed: what earlier installations counted is the parent's."""
    TOTALS.forked(get_meter_provider())


def _taken(queue: Queue) -> list[Any]:
    """What is in a queue, taken out; others may add to it meanwhile, or forget what is in it.

    Where all queues are empty and nobody is recording, everything has been recorded.
    """
    taken: list[Any] = []
    if not queue:  # nearly all of them
        return taken
    with suppress(IndexError):
        taken.extend(map(deque.popleft, repeat(queue, len(queue))))
    return taken


def _inside_sdk(frame: FrameType | None) -> bool:
    """Whether this thread may hold a lock that recording needs: somebody of OpenTelemetry's is on its stack."""
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(_HOLDS_LOCKS):
            return True
        frame = frame.f_back
    return False


# -- the counters -----------------------------------------------------------------------------------------


def _findings(source: Source) -> Values:
    mode = source.mode()
    found: Values = {((RULE, slug), (MODE, mode)): 0 for slug in source.rules()}  # so that the first one is a step
    for (slug, at), count in source.tracker.found.by_rule.copy().items():
        found[(RULE, slug), (MODE, at)] = count
    return found


def _places(source: Source) -> Values:
    places = source.tracker.found.by_place.copy()
    return {tuple(zip((RULE, FILE, FUNCTION, UNIT), place, strict=True)): count for place, count in places.items()}


def _opened(source: Source) -> Values:
    return {((SESSION_KIND, kind),): source.tracker.opened_by_kind[kind] for kind in SESSION_KINDS}


def _closed(source: Source) -> Values:
    ends, told = source.tracker.ends, source.tracker.told
    return {
        ((OUTCOME, outcome), (SESSION_KIND, kind)): ends[kind][outcome].count + told[kind].get(outcome, 0)
        for outcome in OUTCOMES
        for kind in SESSION_KINDS
    }


def _active(source: Source) -> Values:
    tracker = source.tracker
    active: Values = {}
    for kind in SESSION_KINDS:
        ended = sum(tracker.ends[kind][outcome].count for outcome in OUTCOMES) + tracker.forgotten[kind]
        active[(SESSION_KIND, kind),] = max(0, tracker.opened_by_kind[kind] - ended)
    return active


def _loads(source: Source) -> Values:
    plain = source.tracker.pairs is None
    loads: Values = {((LOAD_KIND, kind),): 0 for kind in LOAD_KINDS} if plain else {}
    for key, count in source.tracker.lazy_loads.copy().items():
        kind, *pair = key
        series = ((LOAD_KIND, kind), *zip((MODEL, ATTRIBUTE), pair, strict=False))
        loads[series] = count
    return loads


def _flushes(source: Source) -> Values:
    return {(): source.tracker.totals["flushes"]}


def _rows(source: Source) -> Values:
    return {((OPERATION, operation),): source.tracker.written[verb] for verb, operation in _VERBS.items()}


def _errors(source: Source) -> Values:
    errors: Values = {((HOOK, part),): 0 for part in (HOOKS, SINK, *map("rule {}".format, source.rules()))}
    for hook, count in source.tracker.internal_errors.copy().items():
        kind = hook.partition(" ")[0]
        part = hook if kind == "rule" else SINK if kind == "sink" or hook in _WRITERS else HOOKS
        errors[(HOOK, part),] = errors.get(((HOOK, part),), 0) + count
    return errors


_READERS: dict[str, Callable[[Source], Values]] = {
    "sessionwatch.findings": _findings,
    "sessionwatch.findings.places": _places,
    "sessionwatch.sessions.opened": _opened,
    "sessionwatch.sessions.closed": _closed,
    "sessionwatch.session.active": _active,
    "sessionwatch.lazy_loads": _loads,
    "sessionwatch.flushes": _flushes,
    "sessionwatch.rows.written": _rows,
    "sessionwatch.internal_errors": _errors,
}
