"""Every metric: its name, kind, unit, description, attributes and buckets. ``docs/telemetry.md`` is made from it.

The names of the ``db.client`` ones are those of OpenTelemetry's semantic conventions for databases
(https://opentelemetry.io/docs/specs/semconv/database/database-metrics/), copied as strings.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

SCOPE = "sessionwatch"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

Kind = Literal["counter", "up-down counter", "histogram"]

RULE, MODE, HOOK = "sessionwatch.rule", "sessionwatch.mode", "sessionwatch.hook"
OUTCOME, SESSION_KIND = "sessionwatch.outcome", "sessionwatch.session.kind"
LOAD_KIND, MODEL, ATTRIBUTE = "sessionwatch.load.kind", "sessionwatch.model", "sessionwatch.attribute"
OPERATION = "db.operation.name"
FILE, FUNCTION, UNIT = "code.file.path", "code.function.name", "sessionwatch.unit"
POOL, STATE = "db.client.connection.pool.name", "db.client.connection.state"

OUTCOMES = ("committed", "rolled_back", "read_only", "lost", "leaked")
SESSION_KINDS = ("sync", "async")
LOAD_KINDS = ("relationship", "deferred", "expired")
OPERATIONS = ("INSERT", "UPDATE", "DELETE")
STATES = ("idle", "used")
SINK, HOOKS = "sink", "hook"  # what `HOOK` tells of, besides rules

# Floats, and so wide that both a query of a millisecond and a forgotten session fall between two of them.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
STATEMENTS = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
POOL_SECONDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)


class Metric(NamedTuple):
    """One instrument. ``buckets`` are a histogram's upper bounds, in its unit."""

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...]
    buckets: tuple[float, ...] = ()


METRICS: tuple[Metric, ...] = (
    Metric(
        "sessionwatch.findings",
        "counter",
        "{finding}",
        "Findings of the rules: every occurrence that no allowance and no baseline covers.",
        (RULE, MODE),
    ),
    Metric(
        "sessionwatch.findings.places",
        "counter",
        "{finding}",
        "The same findings by the place that they point to; places after the 200th are other.",
        (RULE, FILE, FUNCTION, UNIT),
    ),
    Metric(
        "sessionwatch.sessions.opened",
        "counter",
        "{session}",
        "Sessions that were opened; one that is used again after its close counts again.",
        (SESSION_KIND,),
    ),
    Metric(
        "sessionwatch.sessions.closed",
        "counter",
        "{session}",
        "Sessions that were closed, collected unclosed, reported as leaked, or open when the program ended.",
        (OUTCOME, SESSION_KIND),
    ),
    Metric(
        "sessionwatch.session.active",
        "up-down counter",
        "{session}",
        "Sessions that are open: made and neither closed nor collected.",
        (SESSION_KIND,),
    ),
    Metric(
        "sessionwatch.session.duration",
        "histogram",
        "s",
        "How long a session lived, from its opening to its close.",
        (OUTCOME, SESSION_KIND),
        SECONDS,
    ),
    Metric(
        "sessionwatch.session.statements",
        "histogram",
        "{statement}",
        "SQL statements that a session ran; one for many rows counts once.",
        (OUTCOME, SESSION_KIND),
        STATEMENTS,
    ),
    Metric(
        "sessionwatch.transaction.duration",
        "histogram",
        "s",
        "How long a transaction of a session was open, from its begin, where it had a connection.",
        (OUTCOME,),
        SECONDS,
    ),
    Metric(
        "sessionwatch.lazy_loads",
        "counter",
        "{load}",
        "Reads of an attribute that sent a query of their own.",
        (LOAD_KIND,),
    ),
    Metric(
        "sessionwatch.flushes",
        "counter",
        "{flush}",
        "Flushes of sessions.",
        (),
    ),
    Metric(
        "sessionwatch.rows.written",
        "counter",
        "{row}",
        "Rows that the statements of sessions wrote; rolled back ones too.",
        (OPERATION,),
    ),
    Metric(
        "sessionwatch.internal_errors",
        "counter",
        "{error}",
        "Errors of sessionwatch itself, which the program did not notice.",
        (HOOK,),
    ),
    Metric(
        "db.client.connection.count",
        "up-down counter",
        "{connection}",
        "The number of connections that are currently in state described by the state attribute.",
        (POOL, STATE),
    ),
    Metric(
        "db.client.connection.max",
        "up-down counter",
        "{connection}",
        "The maximum number of open connections allowed.",
        (POOL,),
    ),
    Metric(
        "db.client.connection.idle.max",
        "up-down counter",
        "{connection}",
        "The maximum number of idle open connections allowed.",
        (POOL,),
    ),
    Metric(
        "db.client.connection.idle.min",
        "up-down counter",
        "{connection}",
        "The minimum number of idle open connections allowed.",
        (POOL,),
    ),
    Metric(
        "db.client.connection.pending_requests",
        "up-down counter",
        "{request}",
        "The number of current pending requests for an open connection.",
        (POOL,),
    ),
    Metric(
        "db.client.connection.timeouts",
        "counter",
        "{timeout}",
        "The number of connection timeouts that have occurred trying to obtain a connection from the pool.",
        (POOL,),
    ),
    Metric(
        "db.client.connection.create_time",
        "histogram",
        "s",
        "The time it took to create a new connection.",
        (POOL,),
        POOL_SECONDS,
    ),
    Metric(
        "db.client.connection.wait_time",
        "histogram",
        "s",
        "The time it took to obtain an open connection from the pool.",
        (POOL,),
        POOL_SECONDS,
    ),
    Metric(
        "db.client.connection.use_time",
        "histogram",
        "s",
        "The time between borrowing a connection and returning it to the pool.",
        (POOL,),
        POOL_SECONDS,
    ),
)
