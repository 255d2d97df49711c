"""What telemetry counts: sessions, statements, rows, loads, findings, and what waits for its histograms."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .found import FindingCounts

if TYPE_CHECKING:
    from .life import SessionRecord

Queue = deque[Any]  # samples of one series of a histogram that wait
MANY = 256  # from which on whoever adds one sees to all queues: what an SDK asks for a batch, it asks for once
_QUEUED = 65_536  # that wait at most; the oldest are dropped


def queue() -> Queue:
    """One that is bounded."""
    return deque(maxlen=_QUEUED)


class Ends:
    """How many sessions of one kind ended with one outcome. ``queue``: seconds and statements of each."""

    __slots__ = ("count", "queue")

    def __init__(self) -> None:
        self.count = 0
        self.queue = queue()


class Counts:
    """The counters of one installation. Whoever counts adds to them as they are: no call of a function."""

    def __init__(self) -> None:
        # plain dictionaries with every key in them: to add one to a Counter is a call of a Python function
        self.opened_by_kind: dict[str, int] = {}
        self.ends: dict[str, dict[str, Ends]] = {}  # by kind and outcome
        self.told: dict[str, dict[str, int]] = {}  # by kind and outcome: sessions that are open, see `ToldRecord`
        self.forgotten: dict[str, int] = {}  # by kind: sessions that were open when the hooks were taken out
        self.totals: dict[str, int] = {}  # statements, flushes
        self.written: dict[str, int] = {}  # rows by verb
        self.lazy_loads: Counter[tuple[str, ...]] = Counter()  # by kind; with ``pairs`` by model and attribute too
        self.found = FindingCounts()
        self.pairs: Callable[[str, str], tuple[str, str]] | None = None  # models and attributes as they are counted
        self.transactions: dict[str, Queue] = {}  # by outcome: seconds
        self.connections: dict[str, tuple[Queue, ...]] = {}  # by pool: seconds of waits, of uses, and to create one
        self._seed()

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

    def clear(self) -> None:
        """In a forked child: all of it is the parent's."""
        for counter in (self.opened_by_kind, self.totals, self.written, self.lazy_loads):
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
        for number in (self.opened_by_kind, self.forgotten):
            number.update(dict.fromkeys(("sync", "async"), 0))
        self.told.update({kind: {"lost": 0, "leaked": 0} for kind in ("sync", "async")})
        self.written.update(dict.fromkeys(("inserted", "updated", "deleted"), 0))
        for outcome in ("committed", "rolled_back", "read_only", "lost", "leaked"):
            self.transactions.setdefault(outcome, queue())
            for kind in ("sync", "async"):
                self.ends.setdefault(kind, {}).setdefault(outcome, Ends()).count = 0
        self.totals.update(dict.fromkeys(("statements", "flushes"), 0))
