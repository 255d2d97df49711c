"""Findings as log records: of OpenTelemetry where the program has a logger provider, else of `logging`.

Never both: a handler of OpenTelemetry's on the program's loggers would export the finding a second time.
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
from .spans import context_of
from .table import SCHEMA_URL, SCOPE

EVENT = "sessionwatch.finding"
REPEAT = 3600.0  # seconds: what is found over and over is logged again after this time, with its count so far
_NOT_REAL = ("ProxyLoggerProvider", "NoOpLoggerProvider")


class Logs:
    """The way of findings to the log. ``clock`` counts seconds; ``log``: whether `logging` may be used."""

    def __init__(self, provider: Any = None, log: bool = True, clock: Callable[[], float] = monotonic) -> None:
        self._given = provider  # None: the global one, whichever that is at the time
        self._provider: Any = None
        self._logger: Any = None
        self._log = log
        self._clock = clock
        self._due: dict[tuple[Any, ...], float] = {}  # by `Finding.key`: when it may be logged again

    def provider(self) -> Any:
        """The logger provider that is in force."""
        return self._given or _logs.get_logger_provider()

    def wants(self, finding: Finding, first: bool) -> bool:
        """Whether this occurrence is to be logged: the first, and one an hour after that."""
        now = self._clock()
        key = finding.key
        if not first and now < self._due.get(key, 0.0):
            return False
        self._due[key] = now + REPEAT
        return True

    def emit(self, finding: Finding, within: SpanContext | None, time: int) -> None:
        """Log a finding of a time, in nanoseconds since the epoch, within a span."""
        logger = self._get()
        if logger is None:
            if self._log:
                sinks.log(finding, True)
            return
        _emit(
            logger,
            timestamp=time,
            observed_timestamp=time_ns(),
            context=context_of(within),
            severity_number=SeverityNumber.WARN,
            severity_text="WARN",
            body=exportable(render(finding)),
            attributes=finding.attributes(),
            event_name=EVENT,
        )

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
        return bool(enabled(severity_number=SeverityNumber.WARN, event_name=EVENT))
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
