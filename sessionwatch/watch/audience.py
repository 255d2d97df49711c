"""Who hears of findings and sessions: subscribers, the log, a file, a callback, a recording, telemetry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..output import sinks
from ..output.messages import holders
from ..output.throttle import Throttle
from ..record.story import held
from ..saying import unlocked

if TYPE_CHECKING:
    from ..config import Config
    from ..model import Finding
    from ..output.store import Store
    from ..record.events import Event
    from ..record.life import SessionRecord
    from ..record.parts import Holder
    from ..record.recording import Recording
    from ..record.tracker import Tracker
    from ..telemetry.signals import Signals
    from ..units.scope import Unit

POOL, SINCE = "db.client.connection.pool.name", "sessionwatch.count_since_last"  # as telemetry's tables have them


class Audience:
    """Everybody who is told something by one installation."""

    def __init__(self, config: Config, tracker: Tracker, store: Store, *, log: bool) -> None:
        self.log = log
        self.signals: Signals | None = None  # in mode telemetry
        self.recording: Recording | None = None  # where a report's picture was asked for
        self.output = sinks.JsonLines(config.output, store) if config.output else None
        self.subscribers: list[sinks.Sink] = []
        self.when_opened: Callable[[SessionRecord], None] | None = None
        self._callback = config.on_finding
        self._settings = config.settings
        self._dry = Throttle()
        self._tracker = tracker

    def subscribe(self, sink: sinks.Sink) -> Callable[[], None]:
        """Call ``sink(finding, first)`` for each occurrence, allowed ones too; returns the undo."""
        self.subscribers.append(sink)
        return lambda: self.subscribers.remove(sink) if sink in self.subscribers else None

    def signal(self, on: bool, providers: Mapping[str, Any], on_provider: Callable[[], None]) -> None:
        """Begin or end to make spans and log records: OpenTelemetry is imported for that, and not before."""
        if on and self.signals is not None:
            return
        if self.signals is not None:
            unlocked(self.signals.flush)
        self.signals = None
        if on:
            from ..telemetry.signals import Signals

            self.signals = Signals(
                self._tracker,
                log=self.log,
                providers=dict(providers),
                on_provider=on_provider,
                with_spans=self._settings["telemetry.spans"],
                beside=self._settings["telemetry.logging"],
            )
        self._tracker.discreet = on

    def listen(self) -> None:
        """From now on sessions are told to whoever wants to hear of them: the recording before the signals."""
        recording, signals = self.recording, self.signals
        self._tracker.when_opened = _one(
            recording.opened if recording is not None else None,
            signals.opened if signals is not None else None,
            self.when_opened,
        )
        self._tracker.when_ended = _one(
            recording.closed if recording is not None else None, signals.ended if signals is not None else None
        )

    # -- findings -------------------------------------------------------------------------------------

    def record(self, finding: Finding, label: str | None, session: SessionRecord | None, event: Event) -> None:
        """Have the recording keep the session with this label, of which something was found."""
        if self.recording is not None:
            with self._tracker.guarded("recording"):
                self.recording.found(finding, label, session, event)

    def tell(self, finding: Finding, first: bool, session: SessionRecord | None) -> None:
        """A finding, whether it is the ``first`` of its kind, and the session's record, if it is known."""
        if self.signals is not None and not finding.covered:
            with self._tracker.guarded("telemetry"):
                self.signals.found(finding, first, session)
        for sink in self._sinks():
            try:
                sink(finding, first)
            except Exception:
                self._tracker.failed(f"sink {getattr(sink, '__qualname__', type(sink).__name__)}")

    def _sinks(self) -> list[sinks.Sink]:
        chosen: list[sinks.Sink] = [*self.subscribers]
        if self.log and self.signals is None:
            chosen.append(sinks.log)
        if self.output is not None:
            chosen.append(self.output)
        if self._callback is not None:
            chosen.append(self._call_back)
        return chosen

    def _call_back(self, finding: Finding, first: bool) -> None:
        if first and not finding.covered and self._callback is not None:
            self._callback(finding)

    def pool_ran_dry(self, error: BaseException, found: list[Holder], checked_out: int, pool: tuple[int, str]) -> None:
        """A pool timed out: its error, and the log, say who holds its connections. ``pool``: its id() and name."""
        rows = [(f"session {one.record.label}, in a transaction for {one.seconds:.1f} s", held(one)) for one in found]
        text = holders(rows, checked_out)
        error.add_note(text)
        since = self._dry.count(pool)
        if not since:
            return
        if since > 1:
            text = f"{text}\n  {since} timeouts of this pool since the last record of them"
        kind = type(error)
        about: dict[str, str | int] = {"error.type": f"{kind.__module__}.{kind.__qualname__}"}
        about |= {"sessionwatch.severity": "fault", POOL: pool[1], SINCE: since}
        longest = next((row.site for _, story in rows for row in story if row.site is not None), None)
        if longest is not None:
            about |= longest.attributes()
        if self.signals is not None:
            self.signals.pool_ran_dry(text, about)
        elif self.log:
            sinks.warn(text, about)

    # -- ends -----------------------------------------------------------------------------------------

    def flush(self, most: int | None = None) -> None:
        """What waits to be a span or a log record becomes one: ``most`` of them, if given."""
        if self.signals is not None:
            self.signals.flush(most)

    def unit_ended(self, unit: Unit) -> None:
        """A unit is over, and what was to be said of it has been."""
        self.flush(most=50)
        if self.recording is not None:
            with self._tracker.guarded("recording"):
                self.recording.unit_ended(unit)

    def left_open(self, record: SessionRecord, outcome: str) -> None:
        """The program ends, and this session is open."""
        if self.signals is not None:
            self.signals.ended(record, outcome)
        if self.recording is not None:
            self.recording.left_open(record)

    def finish(self) -> None:
        """The program ends: nothing more will be told."""
        self.flush()
        if self.recording is not None:
            self.recording.finish()

    def write(self) -> None:
        """Write final counts to the file."""
        if self.output is not None:
            with self._tracker.guarded("output"):
                self.output.flush()

    def close(self) -> None:
        """Nothing more will be told."""
        self._tracker.when_opened = self._tracker.when_ended = None
        if self.output is not None:
            with self._tracker.guarded("output"):
                self.output.close()

    def forked(self) -> None:
        """In a forked child: what waits is the parent's to tell."""
        if self.recording is not None:
            self.recording.forked()
        if self.signals is not None:
            self.signals.forget()
        if self.output is not None:
            self.output.forget()


def _one(*functions: Callable[..., None] | None) -> Callable[..., None] | None:
    """One function that calls all of those that there are; None where there is none."""
    called = [function for function in functions if function is not None]
    if len(called) < 2:
        return called[0] if called else None

    def call(*arguments: object) -> None:
        for function in called:
            function(*arguments)

    return call
