"""The one store of findings: each of them once, with how often every process has met it.

An installation counts in it, and so do reports, into which the lines of other processes and workers are merged. Formats
and sinks read it; none of them counts on its own.

There is no lock in here: the garbage collector, and with it a finalizer of the program's, may run wherever we allocate.
What two threads do at the same time is settled by ``dict.setdefault``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .records import Record, as_finding, as_record

if TYPE_CHECKING:
    from ..model import Finding

Key = tuple[str, int, int, bool]  # of `Finding.key`
_TURNS = 8  # whose findings may still grow
_SHOWN = 20  # units and tests that are written
_NAMES = 10_000  # that are kept, to be counted


def _add(names: dict[str, None], name: str | None) -> None:
    if name is not None and len(names) < _NAMES:
        names[name] = None


class Seen:
    """One finding, over everything that met it. ``finding`` is how it was first met."""

    __slots__ = ("_before", "_kept", "_totals", "_written", "finding", "tests", "units")

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        self._kept: dict[int, Finding] = {}  # by turn; the count of each one goes on
        self._before = 0  # how often, in turns that are no longer kept
        self._written: dict[tuple[str, int, str], int] = {}  # counts by file, process and the time of the first
        self.units: dict[str, None] = {}  # in which it was met, at most `_NAMES`; in the order of the first times
        self.tests: dict[str, None] = {}
        self._totals = (0, 0)  # of both, in one process

    def meet(self, finding: Finding, turn: int) -> tuple[Finding, bool]:
        """Count one more occurrence: the finding that is kept in this turn, and whether it is this one."""
        kept = self._kept.setdefault(turn, finding)
        _add(self.units, finding.unit)
        if kept is not finding:
            kept.count += finding.count
        elif len(self._kept) > _TURNS:
            self._before += self._kept.pop(min(self._kept)).count
        return kept, kept is finding

    def merge(self, record: Record, source: str) -> None:
        """Take what a process has written of it. Its last line counts; a number of a process may be used again."""
        self._written[source, record["pid"], record.get("time", "")] = record.get("count", 1)
        for unit in (record.get("unit"), *record.get("units", ())):
            _add(self.units, unit)
        for test in record.get("tests", ()):
            _add(self.tests, test)
        units, tests = self._totals
        self._totals = max(units, record.get("units_total", 0)), max(tests, record.get("tests_total", 0))

    @property
    def units_total(self) -> int:
        """In how many units it was met; at least so many, where several processes met it."""
        return max(len(self.units), self._totals[0])

    @property
    def tests_total(self) -> int:
        """The same of tests."""
        return max(len(self.tests), self._totals[1])

    @property
    def count(self) -> int:
        """How often it was met in all."""
        return self._here + sum(self._written.values())

    @property
    def processes(self) -> int:
        """By how many processes it was met."""
        return bool(self._kept) + len({(source, pid) for source, pid, _ in self._written})

    @property
    def _here(self) -> int:
        return self._before + sum(finding.count for finding in list(self._kept.values()))

    def record(self) -> Record:
        """The finding as it is written, with its count over everything."""
        record = as_record(self.finding)
        record["count"] = self.count
        record["units"], record["units_total"] = list(self.units)[:_SHOWN], self.units_total
        record["tests"], record["tests_total"] = list(self.tests)[:_SHOWN], self.tests_total
        return record


class Store:
    """Every finding once, in the order in which they were first met.

    ``limit``: how many different ones are kept; more are only counted, in ``overflow``.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.overflow = 0
        self.test: str | None = None  # that runs at the moment, where tests run
        self._turns = itertools.count()
        self._seen: dict[Key, Seen] = {}

    @classmethod
    def of(cls, records: Iterable[Record], source: str = "") -> Store:
        """A store of what was written."""
        store = cls()
        store.merge(records, source)
        return store

    def __iter__(self) -> Iterator[Seen]:
        return iter(list(self._seen.values()))

    def __len__(self) -> int:
        return len(self._seen)

    def next_turn(self) -> int:
        """The number of a turn that begins."""
        return next(self._turns)

    def meet(self, finding: Finding, turn: int) -> tuple[Finding, bool | None]:
        """The finding that is kept for this one, and whether it is this turn's first; None if there is no room."""
        seen = self._find(finding)
        if seen is None:
            self.overflow += 1
            return finding, None
        _add(seen.tests, self.test)
        return seen.meet(finding, turn)

    def seen(self, finding: Finding) -> Seen | None:
        """What is kept of a finding; None if there was no room for it."""
        seen = self._seen.get(finding.key)
        if seen is None and (seen := self._find(finding)) is not None:
            seen.meet(finding, 0)
        return seen

    def merge(self, records: Iterable[Record], source: str = "") -> None:
        """Take what processes have written, to the file ``source``."""
        for record in records:
            finding = as_finding(record)
            self._seen.setdefault(finding.key, Seen(finding)).merge(record, source)

    def forget(self) -> None:
        """In a forked child: what the parent has met is the parent's to tell."""
        self._seen.clear()

    def _find(self, finding: Finding) -> Seen | None:
        key = finding.key
        seen = self._seen.get(key)
        if seen is None and (self.limit is None or len(self._seen) < self.limit):
            seen = self._seen.setdefault(key, Seen(finding))
        return seen


class Turn:
    """What is told anew: an installation, or a test. What is met again in a later one is counted on all the same."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.findings: list[Finding] = []  # distinct ones in the order they happened; ``count`` grows
        self.allowed: list[Finding] = []  # those that an allowance or the baseline covers
        self._number = store.next_turn()

    def meet(self, finding: Finding) -> tuple[Finding, bool | None]:
        """Count an occurrence; see `Store.meet`."""
        kept, first = self.store.meet(finding, self._number)
        if first:
            (self.allowed if finding.covered else self.findings).append(finding)
        return kept, first

    def begin(self) -> None:
        """Forget who was told of what."""
        self._number = self.store.next_turn()
        self.findings.clear()
        self.allowed.clear()
