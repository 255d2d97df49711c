"""The ends of units, of the process, and of the program: what waits is told, and what is open still."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..frames import callsite
from ..hooks import closing
from ..hooks.reading import live_sessions
from ..record.key import KEY
from ..units.scope import end_taken

if TYPE_CHECKING:
    from ..hooks.attributes import PendingWrites
    from ..hooks.connections import Connections
    from ..record.life import SessionRecord
    from ..record.tracker import Tracker
    from ..record.watchdog import Watchdog
    from ..units.scope import Unit
    from .audience import Audience


class Ends:
    """What one installation does where something ends. ``provider``: of telemetry's metrics, for a last export."""

    def __init__(
        self,
        tracker: Tracker,
        pending: PendingWrites,
        connections: Connections,
        watchdog: Watchdog,
        audience: Audience,
        provider: Callable[[], Any],
    ) -> None:
        self._tracker, self._pending, self._watchdog, self._audience = tracker, pending, watchdog, audience
        self._connections = connections
        self._provider = provider
        self._exiting = False
        self.installed = True  # until it is uninstalled; it may be paused meanwhile

    def drain(self) -> None:
        """Report what waits: what the collector found, and changes to detached instances that no session took."""
        end_taken(self._exiting)
        self._tracker.notes.say_all()
        self._pending.report()
        self._audience.flush()

    # -- a unit ---------------------------------------------------------------------------------------

    def unit_ended(self, unit: Unit) -> Exception | None:
        """A unit is over; returns what is to be raised."""
        self._tracker.notes.say()
        raised = self._pending.report(unit) if self._pending.waiting or self._pending.thrown else []
        if unit.half is not None:
            (event, allowances), unit.half = unit.half, None
            self._tracker.emit(event, allowances)  # advice: nothing to be raised over an exception on its way
        still_open = [record for record in unit.records() if record.closed_how is None]
        if unit.lodges:
            others = [record for record in still_open if unit.lodges == "all" or record.taken is not None]
            for record in others:
                record.unit = None
            still_open = [record for record in still_open if record.unit is not None]
        if still_open:
            raised += self._left_open(still_open)
        self._audience.unit_ended(unit)
        return raised[0] if raised else None

    def _left_open(self, records: list[SessionRecord]) -> list[Exception]:
        """Report those sessions of an ended unit that have a connection; returns what is to be raised."""
        raised: list[Exception] = []
        with self._tracker.guarded("unit_of_work"):
            records = _left_to_the_unit(records)
        for record in records:
            if record.closed_how is None and record.connections:
                with self._tracker.guarded("unit_of_work"):
                    event = closing.still_open(None, record, "unit")
                    error = self._tracker.emit(event, record.allowances)
                    record.leaked = True
                    if event.is_told:
                        self._tracker.tell(record, "leaked")
                    raised += [error] if error is not None else []
        return raised

    # -- the program ----------------------------------------------------------------------------------

    def follow(self) -> Callable[[], None]:
        """Have `at_exit` called when the program ends; returns the undo."""
        atexit.register(self.at_exit)
        return lambda: atexit.unregister(self.at_exit)

    def before_others(self) -> None:
        """Have our exit run before that of an SDK which was set up after us: the last one registered is the first."""
        if self._tracker.active and not self._exiting:
            atexit.unregister(self.at_exit)
            atexit.register(self.at_exit)

    def at_exit(self) -> None:
        """The program ends: what waits is reported, and what is still open."""
        self._exiting = True
        if not self.installed:
            return
        with self._tracker.guarded("exit"):
            self.drain()
            for session in live_sessions():
                record = session.__dict__.get(KEY)
                if record is not None and record.closed_how is None and not record.muted:
                    event = closing.still_open(session, record, "exit")
                    self._tracker.emit(event, record.allowances)
                    outcome = self._tracker.left_open(record, bool(event.writes), event.holds_connection)
                    self._audience.left_open(record, outcome)
                    record.muted = True
            self._connections.at_exit()
            self._audience.finish()
        self._audience.write()
        self._watchdog.stop()

    def process_ends(self, over: bool) -> None:
        """The process, or the framework that it served, ends without Python's exit, or may do so."""
        if over:
            self.at_exit()
        if self._audience.signals is not None:
            self._audience.signals.force_flush(self._provider())


def _left_to_the_unit(records: list[SessionRecord]) -> list[SessionRecord]:
    """The open sessions of an ended unit, without those of tasks that it began and that outlive it."""
    here = callsite.task_name()
    if here is None:
        return records
    others = callsite.running_tasks() - {here}
    left = [record for record in records if record.opening is not None and record.opening[3] in others]
    for record in left:
        record.unit = None  # it is theirs
    return [record for record in records if record not in left]
