"""Whose a finding is: the test or the fixture for which a session was opened, or the test that wrote.

A test is no unit of work, because it plays several parts. Its session belongs to it or to the fixture that opened
it, and must not outlive that scope.
"""

from __future__ import annotations

import bisect
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from ..frames import callsite
from ..hooks import scopes
from ..model import Evidence, Finding, Level
from ..record.events import Event, SessionEnded, TransactionOverdue

if TYPE_CHECKING:
    import pytest

    from ..record.life import SessionRecord
    from ..watch.watch import Watch

_PREPARES = ("_callSetUp", "_callTearDown", "_callCleanup")  # of unittest's TestCase: a test method's fixtures
_GENERATIONS = (0, 1, 2)  # of the garbage collector, the young ones first


@dataclass(slots=True, eq=False)
class Owner:
    """A test, a fixture or the run, for which sessions are opened.

    ``nodeid`` and ``location`` are those of a test, and of the test for which a fixture was first set up. ``test``
    is the test that a function-scoped fixture belongs to. Times are those of `time.perf_counter`.
    """

    name: str
    scope: str
    nodeid: str = ""
    location: tuple[str, int | None, str] = ("", None, "")
    test: Owner | None = None
    levels: dict[str, Level] = field(default_factory=dict)
    began: float = field(default_factory=perf_counter)
    ended: float | None = None

    @property
    def whose(self) -> Owner:
        """Who is told: the test for a function-scoped fixture, else itself."""
        return self.test or self


class Late(NamedTuple):
    """A finding that was met after its test had ended."""

    owner: Owner
    finding: Finding


class _Opened(NamedTuple):
    opening: Any  # kept: it is known by its id()
    owner: Owner
    shared: bool  # by a registry, whose next user goes on with the session


class Blame:
    """Who is at work, who opened and who wrote what, and what was found too late.

    ``overdue`` hears at once, in another thread, of a transaction that has been open for too long.
    """

    def __init__(self, watch: Watch, overdue: Callable[[Finding], None]) -> None:
        self.watch = watch
        self.late: list[Late] = []
        self.test: Owner | None = None
        self.calling = False  # while the test itself runs, without its fixtures
        self._run = Owner("the run", "run")
        self._overdue = overdue
        self._over = False
        self._tests: list[Owner] = []
        self._fixtures: list[Owner] = []  # that are being set up, the innermost last
        self._opened: dict[int, _Opened] = {}  # by the id() of a session's opening, which a later use of it shares
        self._wrote: dict[int, Owner] = {}  # who wrote what is not committed yet, by the number of the record
        self._told: dict[int, float] = {}  # when a session was told to be open at the end of its scope
        self._here = threading.local()
        watch.ask(self._judged, self._note_opening)

    @property
    def elsewhere(self) -> bool:
        """Whether the finding that this thread is told of belongs to a test that has ended."""
        return getattr(self._here, "elsewhere", False)

    # -- who is at work -------------------------------------------------------------------------------

    def begin(self, item: pytest.Item) -> Owner:
        """A test begins."""
        self.test = Owner("the test", "function", item.nodeid, item.location)
        self.test.levels = dict(self.watch.config.levels)
        self._tests.append(self.test)
        return self.test

    @contextmanager
    def setting_up(self, name: str, scope: str) -> Iterator[Owner]:
        """A fixture is set up: the sessions that are opened meanwhile are its own."""
        test = self.test or self._run
        owner = Owner(f"the fixture {name!r}", scope, test.nodeid, test.location)
        owner.test = self.test if scope == "function" else None
        owner.levels = dict(self.watch.config.levels)
        self._fixtures.append(owner)
        try:
            yield owner
        finally:
            self._fixtures.remove(owner)
            if owner.test is None:
                self._note_writes(owner, scopes.open_records())

    def _note_opening(self, record: SessionRecord) -> None:
        key = id(record.opening)
        if record.opening is not None and key not in self._opened:
            owner = self._fixtures[-1] if self._fixtures else self.test or self._run
            self._opened[key] = _Opened(record.opening, owner, scopes.by_registry())

    # -- the ends of scopes ---------------------------------------------------------------------------

    def after_call(self) -> None:
        """The test itself is over. What it dropped is young; its fixtures may still close the rest."""
        self._drop_garbage(lambda owner: owner is self.test, _GENERATIONS[:2])

    def drop_own_garbage(self) -> None:
        """The test asks for its findings: look for what it has dropped."""
        self._drop_garbage(lambda owner: owner is self.test, _GENERATIONS)

    def end(self, collecting: bool) -> None:
        """The test and its fixtures are over: report the sessions that outlived their scope."""
        test = self.test
        if test is None:
            return
        test.ended = perf_counter()
        if collecting:
            self._drop_garbage(_has_ended, _GENERATIONS)
        for owner, record in self._outliving(_has_ended):
            self._tell(record, owner.name)
        records = scopes.open_records()
        self._note_writes(test, records)
        self._forget({record.number for record in records})

    def leave(self) -> None:
        """No test runs until the next one begins."""
        self.test = None

    def end_run(self) -> None:
        """All tests are over: report what is still open, whoever should have closed it."""
        self._over = True
        for record in scopes.open_records():
            if not self._is_told(record, record.seconds_open()):
                self._tell(record, "the run")

    def _tell(self, record: SessionRecord, scope: str) -> None:
        if self._told.pop(record.number, None) is not None:
            record.leaked = False  # that was another transaction
        scopes.tell_open(self.watch.tracker, record, scope)
        self._told[record.number] = perf_counter()

    def _drop_garbage(self, wanted: Callable[[Owner], bool], generations: tuple[int, ...]) -> None:
        """Run the collector, but only while a session is open that should not be."""
        for generation in generations:
            if not self._outliving(wanted):
                return
            gc.collect(generation)
            self.watch.drain()  # what the collector calls only notes what it saw

    def _outliving(self, wanted: Callable[[Owner], bool]) -> list[tuple[Owner, SessionRecord]]:
        """The open sessions of ``wanted`` owners. Those of a registry are left: who asks it next goes on with them."""
        found = []
        for record in scopes.open_records() if self._opened else ():
            entry = self._opened.get(id(record.opening))
            if entry is None or entry.shared or self._is_told(record, record.seconds_open()):
                continue
            owner = self._at_work(entry.owner, record, record.seconds_open())
            if wanted(owner):
                found.append((owner, record))
        return found

    def _note_writes(self, owner: Owner, records: list[SessionRecord]) -> None:
        """Remember who wrote what is not committed: it may be lost in somebody else's time."""
        for record in records:
            if not scopes.has_writes(record):
                self._wrote.pop(record.number, None)
            elif record.number not in self._wrote or _start(record, record.seconds_open()) >= owner.began:
                self._wrote[record.number] = owner

    def _forget(self, numbers: set[int]) -> None:
        kept = scopes.live_openings()
        self._opened = {key: entry for key, entry in self._opened.items() if key in kept}
        self._wrote = {number: owner for number, owner in self._wrote.items() if number in numbers}
        self._told = {number: when for number, when in self._told.items() if number in numbers}

    # -- whose it is ----------------------------------------------------------------------------------

    def _judged(self, finding: Finding, event: Event) -> bool | None:
        try:
            return self._judge(finding, event)
        except Exception:
            self.watch.tracker.failed("blame")
            return True

    def _judge(self, finding: Finding, event: Event) -> bool | None:
        """As `Watch.ask` has it: whether a finding may be raised; None for one that was told already."""
        self._here.elsewhere = False
        if isinstance(event, TransactionOverdue) and not finding.covered:
            self._overdue(finding)
        owner = self.test
        if isinstance(event, SessionEnded):
            if event.how != "scope" and self._is_told(event.record, event.seconds_open):
                return None
            owner = self._owner(event)
            if owner.scope != "run" and owner.name != "the test":
                told = Evidence("set up by", None, note=f"{owner.name}, scope {owner.scope}, for {owner.nodeid}")
                finding.evidence = (*finding.evidence, told)
        if owner is None or not self._is_present(owner.whose):
            self._note_late(owner or self._run, finding)
            return self.test is None and not self._over
        return self.test is None or (self.calling and not self._fixtures and not _prepares())

    def _owner(self, event: SessionEnded) -> Owner:
        """Of what was written, who wrote it; else for whom the session was opened, or who went on with it."""
        record = event.record
        if event.writes:
            writer = self._wrote.get(record.number)
            if writer is not None and (self.test is None or _start(record, event.seconds_open) < self.test.began):
                return writer
        entry = self._opened.get(id(record.opening))
        if entry is None or entry.shared or entry.owner is self._run:
            return self._at(_start(record, event.seconds_open)) or (self._run if entry is None else entry.owner)
        return self._at_work(entry.owner, record, event.seconds_open)

    def _at_work(self, owner: Owner, record: SessionRecord, seconds: float) -> Owner:
        """``owner``, or the test that went on with the session after it had ended."""
        if _has_ended(owner):
            later = self._at(_start(record, seconds))
            if later is not None and later.began > owner.whose.began:
                return later
        return owner

    def _at(self, moment: float) -> Owner | None:
        """The test that ran at a moment."""
        index = bisect.bisect_right(self._tests, moment, key=lambda test: test.began) - 1
        return self._tests[index] if index >= 0 else None

    def _is_present(self, owner: Owner) -> bool:
        """Whether the report of the test that runs is the place for the owner's findings."""
        test = self.test
        return test is not None and (owner is test or owner.ended is None or owner.ended >= test.began)

    def _is_told(self, record: SessionRecord, seconds: float) -> bool:
        when = self._told.get(record.number)
        return when is not None and _start(record, seconds) <= when

    def _note_late(self, owner: Owner, finding: Finding) -> None:
        self._here.elsewhere = True
        if owner.whose.levels.get(finding.rule, finding.level) == "raise" and not finding.covered:
            self.late.append(Late(owner.whose, finding))


def _has_ended(owner: Owner) -> bool:
    return owner.ended is not None or owner.whose.ended is not None


def _start(record: SessionRecord, seconds: float) -> float:
    """When a transaction began that had been open for so long when its session ended, or now."""
    return (record.finished or perf_counter()) - seconds


def _prepares() -> bool:
    """Whether a TestCase is in its setUp, tearDown or a cleanup: what is raised there keeps it from cleaning."""
    frames = callsite.stack(sys._getframe(1))
    return any(
        frame.f_code.co_name in _PREPARES and str(frame.f_globals.get("__name__")).startswith("unittest.")
        for frame in frames
    )
