"""``config``: settings of engines and sessionmakers that lead to faults."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Evidence, Finding, Options, Rule
from ..record.events import Misconfigured
from ..record.story import primary, seen

PAGE = """
## What it reports
- An `async_sessionmaker` without `expire_on_commit=False` whose session committed while it held instances.
- SQLite that does not enforce foreign keys, at the first flush of tables that declare some.
- One static connection (`StaticPool`) on which two threads ran statements at the same time.
- `autoflush=False`, and a query for a class of which there were pending changes.

It points to the line that made the engine or sessionmaker. `sessionwatch check MODULE:ENGINE` looks at the
settings without running the program.

## Why it matters
Each of them is a fault that waits: a value that expired under asyncio raises `MissingGreenlet` when it is read;
without foreign keys SQLite stores rows that point nowhere; threads on one connection share one transaction;
a query that does not see what was added finds too little.

## Bad
```python
from sqlalchemy.orm import sessionmaker

SessionLocal = sessionmaker(engine, autoflush=False)
with SessionLocal() as session:
    session.add(Order())
    session.scalars(select(Order)).all()
    session.rollback()
```

## Good
```python
from sqlalchemy.orm import sessionmaker

SessionLocal = sessionmaker(engine)
with SessionLocal() as session:
    session.add(Order())
    session.scalars(select(Order)).all()
    session.rollback()
```

## When to allow
Where the setting is meant: on the line that makes the engine or sessionmaker, with the reason. A block that must
not flush says so by itself: `with session.no_autoflush:` is never reported.
"""

MESSAGES = {
    "expire": "the async_sessionmaker expires instances on commit: reading one afterwards needs the database",
    "foreign-keys": "SQLite does not enforce the foreign keys that the tables declare",
    "static": "two threads ran statements on the one connection of a StaticPool at the same time",
    "autoflush": "a query for {subject} ran before pending changes of {subject} were flushed: autoflush is off",
}
AT_REST = {
    "expire": MESSAGES["expire"],
    "foreign-keys": MESSAGES["foreign-keys"],
    "static": "all threads share the one connection of a StaticPool, and with it one transaction",
    "autoflush": "autoflush is off: a query does not see what was added or changed before it",
}
FIXES = {
    "expire": "async_sessionmaker(engine, expire_on_commit=False)",
    "foreign-keys": "switch it on for each connection:\n"
    '@event.listens_for(engine, "connect")\n'
    "def enforce(connection, record):\n"
    '    connection.execute("PRAGMA foreign_keys=ON")',
    "static": "give each thread a connection of its own: a SQLite file, and no StaticPool",
    "autoflush": "leave autoflush on; where a query must not flush, say so: with session.no_autoflush:",
}
LABELS = {"expire": "committed", "foreign-keys": "flushed", "static": "shared", "autoflush": "queried"}


def check(event: Misconfigured, settings: Options) -> Iterator[Finding]:
    """One finding a setting of one engine or sessionmaker."""
    yield Finding(
        rule="config",
        severity="advice",
        subject=f"{event.kind}: {event.subject}" if event.kind == "autoflush" else event.kind,
        message=MESSAGES[event.kind].format(subject=event.subject) if event.used is not None else AT_REST[event.kind],
        site=primary(event.made, *(seen("", mark).site for mark in (event.used, event.made) if mark is not None)),
        evidence=tuple(_evidence(event)),
        fix=_fix(event),
    )


def _fix(event: Misconfigured) -> str:
    fix = FIXES[event.kind]
    return fix.replace("(engine,", "(engine.sync_engine,") if event.subject == "aiosqlite" else fix


def _evidence(event: Misconfigured) -> Iterator[Evidence]:
    if event.used is not None and event.used.site is not None:  # asyncio may flush in a task of its own
        yield seen(LABELS[event.kind], event.used)
    if event.other is not None:
        yield seen("shared" if event.kind == "static" else "added", event.other)
    if event.made is None:
        yield Evidence("made", None, note="before sessionwatch was installed")
    else:
        yield seen("made", event.made)


RULE = Rule(
    slug="config",
    severity="advice",
    summary="A setting of an engine or sessionmaker took effect that leads to faults.",
    page=PAGE,
    on_in=frozenset({"log", "strict"}),
    events=(Misconfigured,),
    check=check,
    safe_point="a query without autoflush: before it runs; else in the test's report",
)
