"""Under what a workload runs: nothing, sessionwatch in one of its modes, or one of its peers.

A mode is started once in a process of its own; ``window`` is entered around each sample by those that
record a stretch of the program (a request, a test).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from . import sdk
from .databases import Database, UnavailableError

Window = Callable[[], AbstractContextManager[Any]]
OURS = ("bare", "off", "telemetry", "log", "strict")


@dataclass
class Started:
    """A mode that is on: the window of a sample, and what it found that it should not have."""

    window: Window = contextlib.nullcontext
    complaints: Callable[[], list[str]] = field(default=list)


def start(mode: str, db: Database) -> Started:
    """Switch a mode on in this process. Raises `UnavailableError` where that can't be done."""
    if mode in ("bare", sdk.SPAN):
        sdk.makes_span = mode == sdk.SPAN
        return Started()
    if mode in OURS:
        return _sessionwatch(mode)
    try:
        window = PEERS[mode](db)
    except UnavailableError:
        raise
    except Exception as error:  # a peer may fail in any way
        raise UnavailableError(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
    _need_listeners(window, db)
    return Started(window)


def _need_listeners(window: Window, db: Database) -> None:
    """A peer whose listeners are not on costs nothing, which nobody should read as its price."""
    engines = {"sync": db.engine, "async": db.async_engine.sync_engine}
    with window():
        for name, engine in engines.items():
            if not [listener for listener in engine.dispatch.after_cursor_execute if listener]:
                raise UnavailableError(f"its listeners are not on the {name} engine")


def _sessionwatch(mode: str) -> Started:
    import sessionwatch
    from sessionwatch import rules

    chosen: dict[str, Any] = {"mode": "log" if mode == "off" else mode}
    if mode == "off":
        chosen["rules"] = {rule.slug: "off" for rule in rules.ALL}
    # under callgrind, and on a machine that does other things, a transaction takes its time
    chosen["settings"] = {"long-session.seconds": 3600, "long-session.idle": 3600}
    watch = sessionwatch.install(**chosen)

    def complaints() -> list[str]:
        errors = watch.status()["internal_errors"]
        return [f"finding of {finding.rule}: {finding.message}" for finding in watch.findings] + [
            f"internal error in {name}" for name in errors
        ]

    return Started(complaints=complaints)


# -- peers --------------------------------------------------------------------------------------------


def _tracer_provider() -> Any:
    """The program's own; where it has none, spans are made, sampled and dropped."""
    if sdk.chosen is not None:
        return None
    trace: Any = importlib.import_module("opentelemetry.sdk.trace")
    return trace.TracerProvider()


def _opentelemetry(db: Database) -> Window:
    module: Any = importlib.import_module("opentelemetry.instrumentation.sqlalchemy")
    module.SQLAlchemyInstrumentor().instrument(
        engines=[db.engine, db.async_engine.sync_engine],
        tracer_provider=_tracer_provider(),
        skip_dep_check=True,  # it asks for SQLAlchemy below 2.1
    )
    return contextlib.nullcontext


def _sentry(db: Database) -> Window:
    sdk: Any = importlib.import_module("sentry_sdk")
    integration: Any = importlib.import_module("sentry_sdk.integrations.sqlalchemy")
    sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        traces_sample_rate=1.0,
        default_integrations=False,
        integrations=[integration.SqlalchemyIntegration()],
        before_send_transaction=lambda event, hint: None,  # dropped before it is sent
    )
    window: Window = lambda: sdk.start_transaction(op="bench", name="sample")  # noqa: E731
    return window


def _queryguard(db: Database) -> Window:
    module: Any = importlib.import_module("pytest_queryguard")
    window: Window = module.record_queries
    return window


def _queryspy(db: Database) -> Window:
    module: Any = importlib.import_module("queryspy")
    window: Window = module.record
    return window


def _logfire(db: Database) -> Window:
    os.environ["OTEL_PYTHON_SQLALCHEMY_SKIP_DEP_CHECK"] = "1"
    module: Any = importlib.import_module("logfire")
    module.configure(send_to_logfire=False, console=False, inspect_arguments=False)
    module.instrument_sqlalchemy(engines=[db.engine, db.async_engine.sync_engine], skip_dep_check=True)
    return contextlib.nullcontext


PEERS: dict[str, Callable[[Database], Window]] = {
    "otel": _opentelemetry,
    "sentry": _sentry,
    "queryguard": _queryguard,
    "queryspy": _queryspy,
    "logfire": _logfire,
}
_DISTRIBUTIONS = {
    "otel": "opentelemetry-instrumentation-sqlalchemy",
    "sentry": "sentry-sdk",
    "queryguard": "pytest-queryguard",
}


def version(mode: str) -> str:
    """The name and version of what a mode measures."""
    distribution = _DISTRIBUTIONS.get(mode, mode if mode in PEERS else "sessionwatch")
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{distribution} (not installed)"
