"""Findings as log records: of OpenTelemetry where the program has a logger provider, and of `logging`.

With OpenTelemetry's they go to `logging` too, for whoever reads the program's own log, unless told otherwise; there to
no handler of OpenTelemetry's, which would export them a second time.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from time import monotonic, time_ns
from typing import Any

from opentelemetry import _logs
from opentelemetry._logs import NoOpLogger, SeverityNumber
from opentelemetry.trace import SpanContext

from .._version import __version__
from ..model import Finding, exportable
from ..output import sinks
from ..output.messages import render
from ..output.throttle import Throttle
from .spans import context_of
from .table import SCHEMA_URL, SCOPE

EVENT = "sessionwatch.finding"
POOL_EVENT = "sessionwatch.pool.timeout"
SINCE = "sessionwatch.count_since_last"  # how often it happened since its last record, this time included
_NOT_REAL = ("ProxyLoggerProvider", "NoOpLoggerProvider")
_SEVERITIES = {"fault": SeverityNumber.ERROR, "advice": SeverityNumber.WARN}


class Logs:
    """The way of findings to the log. ``clock`` counts seconds; ``log``: whether `logging` may be used.

    ``beside``: whether it is also used where there is a logger of OpenTelemetry's.
    """

    def __init__(
        self,
        provider: Any = None,
        log: bool = True,
        clock: Callable[[], float] = monotonic,
        beside: bool = True,
    ) -> None:
        self._given = provider  # None: the global one, whichever that is at the time
        self._provider: Any = None
        self._logger: Any = None
        self._log, self._beside = log, beside
        self._throttle = Throttle(clock)

    def provider(self) -> Any:
        """The logger provider that is in force."""
        return self._given or _logs.get_logger_provider()

    def count(self, finding: Finding, first: bool) -> int:
        """How often it was found since its last record; 0 where there is none to make: one is made once an hour."""
        return self._throttle.count(finding.key, first)

    def emit(self, finding: Finding, since: int, within: SpanContext | None, time: int) -> None:
        """Log a finding of a time, in nanoseconds since the epoch, within a span."""
        attributes = finding.attributes() | {SINCE: since}
        there = self._tell(_SEVERITIES[finding.severity], EVENT, render(finding), attributes, within, time)
        if self._log and (self._beside or not there):
            sinks.write(finding, apart=there)

    def emit_story(self, story: str, attributes: dict[str, str | int], within: SpanContext | None, time: int) -> None:
        """Log who held the connections of a pool that ran dry."""
        there = self._tell(SeverityNumber.ERROR, POOL_EVENT, story, attributes, within, time)
        if self._log and (self._beside or not there):
            sinks.warn(story, attributes, apart=there)

    def _tell(
        self,
        severity: SeverityNumber,
        event: str,
        body: str,
        attributes: dict[str, str | int],
        within: SpanContext | None,
        time: int,
    ) -> bool:
        """Make a record of OpenTelemetry's; False where nobody would export it."""
        logger = self._get()
        if logger is None:
            return False
        _emit(
            logger,
            timestamp=time,
            observed_timestamp=time_ns(),
            context=context_of(within),
            severity_number=severity,
            severity_text=severity.name,
            body=exportable(body),
            attributes=attributes,
            event_name=event,
        )
        return True

    def _get(self) -> Any:
        """OpenTelemetry's logger, where there is one that exports."""
        provider = self.provider()
        if type(provider).__name__ in _NOT_REAL:
            return None
        if provider is not self._provider:
            self._logger = provider.get_logger(SCOPE, __version__, SCHEMA_URL)
            self._provider = provider
        return self._logger if _exports(self._logger) else None


def _exports(logger: Any) -> bool:
    """Whether what is given to a logger goes anywhere: the SDK's own set-up may leave a provider without exporters."""
    if isinstance(logger, NoOpLogger):
        return False
    enabled = getattr(logger, "enabled", None)  # not in older releases of the API
    if enabled is not None:
        return bool(enabled(severity_number=SeverityNumber.ERROR, event_name=EVENT))
    # Private, of older SDKs: there is no public way to ask.
    processors = getattr(getattr(logger, "_multi_log_record_processor", None), "_log_record_processors", None)
    return processors is None or bool(processors)


def _emit(logger: Any, **fields: Any) -> None:
    """Call ``logger.emit`` as the installed version wants it: with the fields, or with a record made of them."""
    if "event_name" in inspect.signature(logger.emit).parameters:
        logger.emit(**fields)
        return
    sdk = sys.modules.get("opentelemetry.sdk._logs")  # which used to have a class of its own, with a resource
    make = getattr(sdk, "LogRecord", None) or _logs.LogRecord
    known = inspect.signature(make).parameters
    if "event_name" not in known:
        fields["attributes"] = {**fields["attributes"], "event.name": fields["event_name"]}
    if "context" not in known:
        fields |= _ids(fields["context"])
    if "resource" in known:
        fields["resource"] = getattr(logger, "resource", None)
    logger.emit(make(**{name: value for name, value in fields.items() if name in known}))


def _ids(context: Any) -> dict[str, Any]:
    from opentelemetry.trace import get_current_span

    span = get_current_span(context).get_span_context()
    return {"trace_id": span.trace_id, "span_id": span.span_id, "trace_flags": span.trace_flags}
