"""One span a session, made when the session has ended, with the times that it began and ended at.

Nothing is done when a session is opened but to note which span was current. The span is never current itself,
so that statements stay the children of the request that runs them, whoever makes spans of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import time_ns
from types import CodeType
from typing import TYPE_CHECKING, Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode

from .._version import __version__
from ..model import Finding, RawSite, by_instruction, exportable
from .table import SCHEMA_URL, SCOPE

if TYPE_CHECKING:
    from ..record.life import SessionRecord

NAME = "sessionwatch.session"
EVENT = "sessionwatch.finding"
_EVENTS_REMEMBERED = 1024
_NOWHERE = (None, -1, "", None)  # of a session that was opened before the installation

# Private: exporters set it while they work, so that what they use is not traced in its turn.
_SUPPRESSED = getattr(contexts, "_SUPPRESS_INSTRUMENTATION_KEY", None)
# Private: its context variable. What is public are two functions around it, and each session that is opened asks.
_variable = getattr(getattr(contexts, "_RUNTIME_CONTEXT", None), "_current_context", None)
around: Callable[[], Any] = getattr(_variable, "get", contexts.get_current)


def current() -> SpanContext | None:
    """The context of the span that is current here; None where there is none."""
    context = trace.get_current_span(around()).get_span_context()
    return context if context.is_valid else None


def suppressed() -> bool:
    """Whether an exporter is at work here."""
    return bool(_SUPPRESSED and contexts.get_value(_SUPPRESSED))


def context_of(parent: SpanContext | None) -> contexts.Context:
    """A context with a span as the current one, and nothing else; an empty one for None."""
    nothing = contexts.Context()
    return trace.set_span_in_context(NonRecordingSpan(parent), nothing) if parent is not None else nothing


class Found:
    """What a session's span says of one finding. ``within``: the context of the span that was current."""

    __slots__ = ("attributes", "noted", "rule", "severity", "time", "within")

    def __init__(self, finding: Finding, within: SpanContext | None, noted: bool) -> None:
        self.rule = finding.rule
        self.severity = finding.severity
        self.attributes = brief(finding)
        self.within = within
        self.noted = noted  # that span has an event of it
        self.time = time_ns()


def brief(finding: Finding) -> dict[str, Any]:
    """The attributes of a finding's span event and link."""
    attributes = finding.attributes()
    wanted = ("sessionwatch.rule", "sessionwatch.severity", "sessionwatch.subject", "sessionwatch.fingerprint")
    return {name: value for name, value in attributes.items() if name in wanted or name.startswith("code.")}


class Spans:
    """The tracer, and the spans and span events that are made by it."""

    def __init__(self, provider: Any = None) -> None:
        self._given = provider  # None: the global one, whichever that is at the time
        self._provider: Any = None
        self._tracer: Any = None
        self._told: OrderedDict[tuple[int, tuple[Any, ...]], None] = OrderedDict()  # events by span and finding

    def provider(self) -> Any:
        """The tracer provider that is in force."""
        return self._given or trace.get_tracer_provider()

    def make(self, record: SessionRecord, outcome: str, end: int) -> None:
        """Make the span of a session that ended at ``end``, in nanoseconds since the epoch.

        Its beginning is counted back by the monotonic clock, so that no clock that was set meanwhile matters.
        """
        start = end - int(record.duration() * 1e9)
        found = record.found
        span = self._get().start_span(
            NAME,
            context=context_of(record.parent),
            kind=SpanKind.INTERNAL,
            attributes=_attributes(record, outcome),
            links=[Link(one.within, one.attributes) for one in found if one.within is not None] if found else (),
            start_time=start,
        )
        if found and span.is_recording():
            _tell(span, found, start, end)
        span.end(end_time=end)

    def note(self, finding: Finding) -> bool:
        """Add an event to the span that is current, once a span and finding; whether that span has one."""
        span = trace.get_current_span()
        if not span.is_recording():
            return False
        key = span.get_span_context().span_id, finding.key
        if key not in self._told:
            self._told[key] = None
            if len(self._told) > _EVENTS_REMEMBERED:
                self._told.popitem(last=False)
            span.add_event(EVENT, brief(finding))
        return True

    def _get(self) -> Any:
        provider = self.provider()
        if provider is not self._provider:
            self._tracer = provider.get_tracer(SCOPE, __version__, SCHEMA_URL)
            self._provider = provider
        return self._tracer


def _attributes(record: SessionRecord, outcome: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "sessionwatch.outcome": outcome,
        "sessionwatch.session.kind": record.kind,
        "sessionwatch.session.id": record.label,
        "sessionwatch.statements": record.statements,
        "sessionwatch.flushes": record.flushes,
        "sessionwatch.rows.written": sum(record.written.values()),
    }
    if record.unit is not None:
        attributes["sessionwatch.unit"] = exportable(record.unit.name)
    code, lasti, _, _ = record.opening or _NOWHERE
    if code is not None:
        attributes |= _place(code, lasti)
    if record.found:
        attributes["sessionwatch.findings"] = list(dict.fromkeys(one.rule for one in record.found))
    return attributes


@by_instruction
def _place(code: CodeType, lasti: int) -> dict[str, Any]:
    return RawSite(code, lasti).resolve().attributes()


def _tell(span: Any, found: tuple[Found, ...], start: int, end: int) -> None:
    """Let the span of a session tell of its findings; some are found by closing it."""
    for one in found:
        if not one.noted:
            span.add_event(EVENT, one.attributes, max(start, min(one.time, end)))
    faults = [one.rule for one in found if one.severity == "fault"]
    if faults:
        span.set_attribute("error.type", faults[0])
        span.set_status(Status(StatusCode.ERROR, ", ".join(dict.fromkeys(faults))))
