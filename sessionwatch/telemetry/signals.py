"""What a finding or the end of a session sets off in traces and logs, and when.

The garbage collector may end a session at any moment, also while this very thread holds a lock of the SDK's.
What is found then waits for the next moment that is safe: the next finding, end of a session or of a unit,
collection of metrics, or the exit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry import _logs, metrics, trace
from opentelemetry.trace import TraceFlags

from ..record.notes import in_finalizer
from . import spans
from .logs import Logs
from .spans import Found, Spans, around

if TYPE_CHECKING:
    from ..model import Finding
    from ..record.life import SessionRecord
    from ..record.tracker import Tracker

_WAITING = 10_000  # what may wait; more is dropped, and counted as an internal error
_AT_ONCE = 50  # so many at one safe moment: the host's call pays for it
_PATIENCE = 5.0  # seconds that the end of a process waits for the exporters
_FOUND = 16  # findings that one session's span tells of
_LOOKS = 256  # sessions, until nobody is expected to set up an SDK any more


def _set_globally() -> tuple[Any, ...] | None:
    """The global providers, None for each that is not set; None where the API keeps them elsewhere.

    Private: until a provider is set, the public functions search the environment for one at each call.
    """
    try:
        return trace._TRACER_PROVIDER, metrics._internal._METER_PROVIDER, _logs._internal._LOGGER_PROVIDER
    except AttributeError:
        return None


class Signals:
    """Spans and log records of one installation.

    Args:
        tracker: for errors of ours, and for whether the collector runs.
        log: whether `logging` may be used where there is no OpenTelemetry logger.
        providers: ``tracer_provider`` and ``logger_provider``, where not the global ones.
        on_provider: called when a provider is seen for the first time.
        with_spans: whether sessions have spans.
        beside: whether `logging` is used too where there is an OpenTelemetry logger.
    """

    def __init__(
        self,
        tracker: Tracker,
        *,
        log: bool = True,
        providers: dict[str, Any] | None = None,
        on_provider: Callable[[], None] = lambda: None,
        with_spans: bool = True,
        beside: bool = True,
    ) -> None:
        given = providers or {}
        self.tracker = tracker
        self._spans = with_spans
        self.spans = Spans(given.get("tracer_provider"))
        self.logs = Logs(given.get("logger_provider"), log, beside=beside)
        self._on_provider = on_provider
        self._providers: tuple[Any, ...] = ()
        self._seen: tuple[Any, ...] | None = None  # those that were set globally when it was looked last
        self._looks = _LOOKS
        self._waiting: deque[Callable[[], None]] = deque()
        self._working = threading.local()

    # -- a session ------------------------------------------------------------------------------------

    def opened(self, record: SessionRecord) -> None:
        """A session was opened: note the span that is current."""
        if around():  # else there is no span, as without an SDK
            record.parent = spans.current()
        if self._looks:
            self._looks -= 1
            self.look()

    def ended(self, record: SessionRecord, outcome: str) -> None:
        """A session has ended: make its span, if its parent is sampled, now or later."""
        wanted = record.parent is not None and self._has_span(record)
        if not wanted and not self._waiting:  # the usual case without an SDK
            return
        if not wanted or record.muted or self._is_exporting():
            if self._waiting and not self._must_wait():
                self.flush(_AT_ONCE)
            return
        finished = record.finished if record.finished is not None else perf_counter()
        end = time_ns() - int((perf_counter() - finished) * 1e9)
        self._soon(lambda: self.spans.make(record, outcome, end))

    def _has_span(self, record: SessionRecord) -> bool:
        """Whether spans are wanted, and the one that was current at the opening is sampled."""
        parent = record.parent
        return parent is not None and self._spans and bool(parent.trace_flags & TraceFlags.SAMPLED)

    # -- a finding ------------------------------------------------------------------------------------

    def found(self, finding: Finding, first: bool, record: SessionRecord | None) -> None:
        """A finding that no allowance covers, or one more occurrence of it; ``record`` is its session's."""
        if self._is_exporting():
            return
        within = spans.current() if not self.tracker.notes.collecting else None  # by chance any, in the collector
        noted = within is not None and not self._must_wait() and self._within_sdk(lambda: self.spans.note(finding))
        if record is not None and len(record.found) < _FOUND and self._has_span(record):
            record.found += (Found(finding, within, bool(noted)),)
        since = self.logs.count(finding, first)
        if since:
            where = within or (record.parent if record is not None else None)
            time = time_ns()
            self._soon(lambda: self.logs.emit(finding, since, where, time))

    def pool_ran_dry(self, story: str, attributes: dict[str, str | int]) -> None:
        """Who holds the connections of a pool that timed out."""
        if not self._is_exporting():
            within, time = spans.current(), time_ns()
            self._soon(lambda: self.logs.emit_story(story, attributes, within, time))

    # -- when -----------------------------------------------------------------------------------------

    def flush(self, most: int | None = None) -> None:
        """Tell what waits, ``most`` of it; for moments at which no lock of the SDK's can be held."""
        left = len(self._waiting) if most is None else most
        while left > 0 and self._waiting:
            left -= 1
            try:
                tell = self._waiting.popleft()
            except IndexError:  # another thread has told it
                return
            self._within_sdk(tell)

    def force_flush(self, meter_provider: Any) -> None:
        """Have the SDK export what it holds, where a process ends without the exit that would do so.

        By a thread, and only for so long: an exporter that hangs, or a lock that was lost in a fork, is waited for
        by nobody. What the host's own instrumentation told the SDK is exported with it.
        """
        self.flush()
        providers = self.spans.provider(), self.logs.provider(), meter_provider

        def export() -> None:
            for provider in providers:
                with self.tracker.guarded("telemetry"):
                    getattr(provider, "force_flush", lambda: None)()

        thread = threading.Thread(target=export, name="sessionwatch-flush", daemon=True)
        thread.start()
        thread.join(_PATIENCE)

    def forget(self) -> None:
        """In a forked child: what waits is the parent's to tell."""
        self._waiting.clear()
        self._working = threading.local()

    def look(self) -> None:
        """Look whether a provider was set meanwhile: its exit comes before ours, unless ours is registered later."""
        seen = _set_globally()
        if seen is not None and seen == self._seen:
            return
        self._seen = seen
        providers = self.spans.provider(), metrics.get_meter_provider(), self.logs.provider()
        if any(one is not before for one, before in zip(providers, self._providers or (None,) * 3, strict=True)):
            self._providers = providers
            self._on_provider()

    def _soon(self, tell: Callable[[], None]) -> None:
        """Do it now if that is safe, after what waits already."""
        if not self._waiting and not self._must_wait():  # the usual case
            self._within_sdk(tell)
            return
        if len(self._waiting) >= _WAITING:
            self.tracker.internal_errors["telemetry queue full"] += 1
            return
        self._waiting.append(tell)
        if not self._must_wait():
            self.flush(_AT_ONCE)

    def _must_wait(self) -> bool:
        return self.tracker.notes.collecting or getattr(self._working, "now", False) or in_finalizer()

    def _is_exporting(self) -> bool:
        """Whether an exporter works here, which may use sessions itself: those are none of the program's.

        Not so in the collector, which runs wherever it happens to.
        """
        exporting = getattr(self._working, "now", False) or spans.suppressed()
        return exporting and not (self.tracker.notes.collecting or in_finalizer())

    def _within_sdk(self, call: Callable[[], Any]) -> Any:
        self._working.now = True
        try:
            self.look()
            return call()
        except Exception:
            self.tracker.failed("telemetry")
        finally:
            self._working.now = False
