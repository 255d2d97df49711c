"""``cross-process``: a connection that was opened before a fork and is used after it."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Evidence, Finding, Options, Rule
from ..record.events import InheritedConnection
from ..record.story import opened, primary, seen, session_json

PAGE = """
## What it reports
A child process ran a statement on a connection that its parent had opened before the fork: through a
session that was held across it, or through the engine's pool. A connection to a database in memory
is not reported, because the child's is a copy.

## Why it matters
Two processes speak on one socket at the same time. Each gets the other's answers, or an error that makes
no sense ("lost synchronization with server", "SSL error", "database disk image is malformed"), and a
rollback of the one is a rollback of the other. Servers that fork after the application was loaded
(gunicorn with `--preload`, Celery's prefork pool, `multiprocessing`) do this with every connection that was
used while loading.

## Bad
```python
import os
from sqlalchemy import create_engine, text

engine = create_engine(database)

def answer():
    with engine.connect() as connection:
        return connection.scalar(text("SELECT 42"))

answer()
if not (child := os.fork()):
    answer()
    os._exit(0)
os.waitpid(child, 0)
```

## Good
```python
import os
from sqlalchemy import create_engine, text

engine = create_engine(database)

def answer():
    with engine.connect() as connection:
        return connection.scalar(text("SELECT 42"))

answer()
if not (child := os.fork()):
    engine.dispose(close=False)
    answer()
    os._exit(0)
os.waitpid(child, 0)
```

## When to allow
Where the parent is known never to use its connections again, nor to close them: it ends by `os._exit()`.
"""

FIX = (
    "in the child, before its first statement: {}engine.dispose(close=False);\n"
    "a session that was opened before the fork is the parent's: open a new one"
)


def check(event: InheritedConnection, settings: Options) -> Iterator[Finding]:
    """One finding the first use of each connection in the child."""
    record = event.record
    yield Finding(
        rule="cross-process",
        severity="fault",
        subject="session" if record is not None else "engine",
        message=f"{event.statement} ran in a forked process, on a connection that its parent had opened",
        site=primary(event.used),
        evidence=tuple(_evidence(event)),
        fix=FIX.format("await " if event.is_async else ""),
        session=session_json(record) if record is not None else None,
        unit=record.unit.name if record is not None and record.unit else None,
    )


def _evidence(event: InheritedConnection) -> Iterator[Evidence]:
    yield seen("used", event.used, event.record.label if event.record is not None else None)
    parent = f"process {event.parent}"
    if event.connected is not None:
        yield seen("connected", event.connected, note=f"in {parent}")
    else:
        yield Evidence("connected", None, note=f"before sessionwatch was installed, in {parent}")
    if event.record is not None:
        yield opened(event.record)


RULE = Rule(
    slug="cross-process",
    severity="fault",
    summary="A forked process used a connection that its parent had opened.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(InheritedConnection,),
    check=check,
    safe_point="before the statement is sent",
)
