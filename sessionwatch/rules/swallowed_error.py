"""``swallowed-error``: a database error that nobody rolled back, after which the session went on."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Evidence, Finding, Options, Rule
from ..record.events import ErrorSwallowed
from ..record.fixes import session_name
from ..record.story import opened, primary, seen, session_json

PAGE = """
## What it reports
A statement, a flush or a commit failed inside of a session. The program caught the error and rolled back
neither the transaction nor a savepoint around the statement, and the session then ran more statements, was
committed, or was closed as though nothing had happened. A statement that only read and failed is not
reported where the session is closed next. A flush that SQLAlchemy itself refused, as for an UPDATE that matched
no row, is an error as well. `PendingRollbackError` gets the story as a note.

## Why it matters
What failed is missing, and the caller does not know. PostgreSQL refuses everything that follows in the
transaction, with an error that names neither the cause nor the place; SQLite goes on and commits a half.

## Bad
```python
with Session(engine) as session:
    session.add(Order(id=1))
    try:
        session.commit()
    except Exception:
        print("not stored")
```

## Good
```python
with Session(engine) as session:
    session.add(Order(id=1))
    try:
        session.commit()
    except Exception:
        session.rollback()
```

## When to allow
Where a statement may fail and the rest shall stand, a savepoint says so: `with session.begin_nested():`
inside of the `try`. It is never reported.
"""

FIX = {
    "sync": "roll back in the handler: session.rollback();\n"
    "where only this may fail, put it in a savepoint inside of the try: with session.begin_nested(): ...",
    "async": "roll back in the handler: await session.rollback();\n"
    "where only this may fail, put it in a savepoint inside of the try: async with session.begin_nested(): ...",
}


def check(event: ErrorSwallowed, settings: Options) -> Iterator[Finding]:
    """One finding the first error of a transaction."""
    record = event.record
    yield Finding(
        rule="swallowed-error",
        severity="fault",
        subject=event.statement,
        message=f"{event.statement} failed with {event.kind}, and the session {event.did} without a rollback",
        site=primary(event.failed),
        evidence=tuple(_evidence(event)),
        fix=FIX[record.kind].replace("session.", f"{session_name(record, event.failed)}."),
        session=session_json(record),
        unit=record.unit.name if record.unit else None,
    )


def _evidence(event: ErrorSwallowed) -> Iterator[Evidence]:
    label = {"was committed": "committed", "was closed": "closed", "was used again": "used"}.get(event.did, "ran")
    yield seen(label, event.later, event.record.label)
    yield seen("failed", event.failed, note=event.kind)
    yield opened(event.record)


RULE = Rule(
    slug="swallowed-error",
    severity="fault",
    summary="A database error was neither rolled back nor passed on, and its session went on.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(ErrorSwallowed,),
    check=check,
    safe_point="before the next statement or commit; after the close",
)
