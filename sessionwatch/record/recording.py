"""What sessions did and when, for the formats ``html`` and ``trace``. Made only where one of them is asked for.

A line of JSON for each session that is kept: every one with a finding, and of the rest the first few hundred and
then fewer and fewer. Nothing in here holds a session or an instance: what a session did stands in its record, and
goes with it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from ..frames import callsite
from ..units.scope import Unit, current_unit
from .events import LATE, DetachedWrite, Event

if TYPE_CHECKING:
    from ..frames.callsite import Raw
    from ..model import Finding, RawSite
    from .life import SessionRecord

FIRST = 300  # sessions of a process that are kept in any case; of twice as many every second one, and so on
REMEMBERED = 2_000  # ended sessions that may still get a finding
MOST_MARKS = 200  # of one session; a line that does the same again adds none
MOST_FOUND = 10_000  # occurrences of findings


class Mark(NamedTuple):
    """What a session did at ``first``, and again until ``last``; seconds of the clock."""

    kind: str
    first: float
    last: float
    times: int
    place: RawSite | None


class Life:
    """What one session did: its marks, transactions and connections, each from when until when."""

    __slots__ = ("found", "held", "left_out", "marks", "transactions")

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self.transactions: list[list[float | None]] = []
        self.held: list[list[float | None]] = []
        self.left_out = 0
        self.found = False  # a finding names it

    def mark(self, kind: str, now: float, place: RawSite | None) -> None:
        """Note what it does; one line that does the same again and again makes one mark."""
        newest = self.marks[-1] if self.marks else None
        if newest is not None and newest.kind == kind and newest.place == place and not self.left_out:
            self.marks[-1] = newest._replace(last=now, times=newest.times + 1)
        elif len(self.marks) < MOST_MARKS:
            self.marks.append(Mark(kind, now, now, 1, place))
        else:
            self.left_out += 1

    def began(self, since: float, now: float) -> None:
        """A transaction took a connection; of several, the first counts."""
        if not (self.held and self.held[-1][1] is None):
            self.transactions.append([since, None])
            self.held.append([now, None])

    def ended(self, now: float) -> None:
        """The transaction is over, and the connection is given back."""
        for intervals in (self.transactions, self.held):
            if intervals and intervals[-1][1] is None:
                intervals[-1][1] = now


class Recording:
    """One process's recording. ``write`` appends a line to a file that several processes may share, at once."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.clock: Callable[[], float] = perf_counter
        self._write = write
        self._epoch = time.time() - perf_counter()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._seen = self._ended = self._occurrences = 0
        self._kept: set[str] = set()  # labels of sessions that were written after their end
        self._units: set[int] = set()  # numbers of units whose sessions were written
        self._past: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def forked(self) -> None:
        """In a forked child: what the parent recorded is the parent's."""
        self._begin()

    # -- a session ------------------------------------------------------------------------------------

    def opened(self, record: SessionRecord) -> None:
        """A session was opened."""
        self._seen += 1
        record.life = Life()

    def life(self, record: SessionRecord) -> Life:
        """What a session did; of one that was opened before, what it does from now on."""
        known: Life | None = record.life
        if known is None:
            known = record.life = Life()
        return known

    def closed(self, record: SessionRecord, outcome: str) -> None:
        """A session has ended: written at once, or remembered for a while, in case that a finding comes."""
        if record.muted or record.life is None:
            return
        self._ended += 1
        line = self._line(record, outcome)
        if record.life.found or self._is_sampled():
            self._keep(record.label, line)
            return
        while len(self._past) >= REMEMBERED:
            self._past.popitem(last=False)
        self._past[record.label] = line

    def _is_sampled(self) -> bool:
        return self._ended % (1 << (self._ended // FIRST).bit_length()) == 0 if self._ended > FIRST else True

    def _keep(self, label: str, line: dict[str, Any]) -> None:
        self._kept.add(label)
        if line["unit"] is not None:
            self._units.add(line["unit"])
        self._say(line)

    # -- what is found, and ends ----------------------------------------------------------------------

    def found(self, finding: Finding, label: str | None, record: SessionRecord | None, event: Event) -> None:
        """A finding, once more: which session it is of, and who met it when."""
        self._occurrences += 1
        if self._occurrences > MOST_FOUND:
            return
        labels = dict.fromkeys([label, *(item.session for item in finding.evidence)])
        for one in labels:
            if one is not None and one not in self._kept and one in self._past:
                self._keep(one, self._past.pop(one))
        if record is not None and record.label in labels and not record.muted:
            self.life(record).found = True
            if record.closed_how is None:
                self._say(self._line(record, "leaked" if record.connections else "open"))  # it may never end
        when: float | None = self.clock()
        thread, task, unit = threading.current_thread().name, callsite.task_name(), current_unit()
        if isinstance(event, DetachedWrite):  # told by whoever, at some time later
            when, unit = event.made, event.unit
            thread, task = (event.mark.thread, event.mark.task) if event.mark is not None else (thread, task)
        self._say(
            {
                "kind": "finding",
                "pid": self._pid,
                "fingerprint": finding.fingerprint,
                "line": finding.line,
                "covered": finding.key[-1],
                "session": label,
                "t": self._time(when),
                "late": isinstance(event, LATE),
                **self._where(unit, thread, task),
            }
        )

    def unit_ended(self, unit: Unit) -> None:
        """A unit of work has ended: its name is known by now."""
        if unit.number in self._units:
            self._units.discard(unit.number)
            end = self._time(self.clock())
            self._say({"kind": "unit", "pid": self._pid, "unit": unit.number, "name": str(unit.name), "end": end})

    def left_open(self, record: SessionRecord) -> None:
        """The process ends, and a session is open."""
        if record.life is not None and (record.life.found or self._ended < FIRST):
            self._say(self._line(record, "leaked" if record.connections else "open"))

    def finish(self) -> None:
        """The process ends: say how many sessions there were."""
        unnoted = max(0, self._occurrences - MOST_FOUND)
        self._say({"kind": "totals", "pid": self._pid, "seen": self._seen, "unnoted": unnoted})

    # -- lines ----------------------------------------------------------------------------------------

    def _line(self, record: SessionRecord, end: str) -> dict[str, Any]:
        life = self.life(record)
        opening: Raw | None = record.opening
        thread, task = (opening[2], opening[3]) if opening is not None else ("", None)
        finished = record.finished
        return {
            "kind": "session",
            "pid": self._pid,
            "id": record.label,
            "seen": self._seen,
            **self._where(record.unit, thread, task),
            "open": self._time(record.started),
            "close": self._time(finished),
            "end": end,
            "opened": record.opened,
            "closed": record.closed if finished is not None else None,
            "marks": list(life.marks),
            "left_out": life.left_out,
            "tx": [[self._time(moment) for moment in interval] for interval in life.transactions],
            "connection": [[self._time(moment) for moment in interval] for interval in life.held],
        }

    def _where(self, unit: Unit | None, thread: str, task: str | None) -> dict[str, Any]:
        return {
            "unit": unit.number if unit is not None else None,
            "unit_name": str(unit.name) if unit is not None else None,
            "thread": thread,
            "task": task,
        }

    def _time(self, moment: float | None) -> float | None:
        """Seconds since the epoch, which all processes share."""
        return round(self._epoch + moment, 6) if moment is not None else None

    def _say(self, line: dict[str, Any]) -> None:
        if line["kind"] == "session":
            line = {**line, "opened": _place(line["opened"]), "closed": _place(line["closed"])}
            line["marks"] = [self._mark(mark) for mark in line["marks"]]
        with suppress(OSError):  # the folder is gone where this process outlives the report
            self._write(json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n")

    def _mark(self, mark: Mark) -> list[Any]:
        site = mark.place.resolve() if mark.place is not None else None
        place = [site.shown_path, site.line] if site is not None else [None, None]
        return [mark.kind, self._time(mark.first), self._time(mark.last), mark.times, *place]


def _place(mark: Any) -> dict[str, Any] | None:
    site = mark.site.resolve() if mark is not None and mark.site is not None else None
    return {"path": site.shown_path, "line": site.line, "function": site.function} if site is not None else None
