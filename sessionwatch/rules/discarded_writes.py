"""``discarded-writes``: a rollback after an error that took the caller's work along."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Evidence, Finding, Options, Rule
from ..record.events import DiscardedWrites
from ..record.fixes import session_name
from ..record.parts import Write
from ..record.story import counted, listed, opened, primary, seen, session_json

PAGE = """
## What it reports
A function caught a database error, called `session.rollback()` and returned as though it had only undone its own work.
Its caller had written in that session before, and committed afterwards: the caller's part is gone.

A rollback by the one who wrote, a function that raises after its rollback, a savepoint, and work that is written again
before the commit are not reported.

## Why it matters
`rollback()` undoes the whole transaction. The helper looks right by itself and its tests pass; in its caller, which
commits without an error, rows are missing.

## Bad
```python
def tag(session, name):
    try:
        session.add(Customer(id=1, name=name))
        session.flush()
    except Exception:
        session.rollback()

def job():
    with Session(engine) as session:
        session.add(Order(status="new"))
        tag(session, "known")
        session.commit()

job()
```

## Good
```python
def tag(session, name):
    try:
        with session.begin_nested():
            session.add(Customer(id=1, name=name))
            session.flush()
    except Exception:
        pass

def job():
    with Session(engine) as session:
        session.add(Order(status="new"))
        tag(session, "known")
        session.commit()

job()
```

## When to allow
Where the caller knows that its work may go, and does not need it.
"""

FIX = {
    "sync": "undo only what failed: put it in a savepoint inside the try, `with session.begin_nested():`,\n"
    "and take out session.rollback()",
    "async": "undo only what failed: put it in a savepoint inside the try, `async with session.begin_nested():`,\n"
    "and take out await session.rollback()",
}


def check(event: DiscardedWrites, settings: Options) -> Iterator[Finding]:
    """One finding for each rollback that was followed by a commit."""
    record = event.record
    were = "was" if len(event.writes) == 1 and event.writes[0].count == 1 else "were"
    yield Finding(
        rule="discarded-writes",
        severity="advice",
        subject=listed(dict.fromkeys(write.subject for write in event.writes)),
        message=f"{listed(map(_counted, event.writes))} {were} discarded by a rollback in {event.function}, "
        "and the session then committed without them",
        site=primary(event.rolled_back),
        evidence=tuple(_evidence(event)),
        fix=FIX[record.kind].replace("session.", f"{session_name(record, event.rolled_back, event.failed)}."),
        session=session_json(record),
        unit=record.unit.name if record.unit else None,
    )


def _counted(write: Write) -> str:
    if write.what == "row":
        return f"{counted(write.count, 'row')} of {write.subject}"
    return counted(write.count, f"{write.subject} object")


def _evidence(event: DiscardedWrites) -> Iterator[Evidence]:
    yield seen("committed", event.committed, event.record.label)
    yield seen("rolled back", event.rolled_back)
    yield seen("failed", event.failed, note=event.statement)
    yield seen("written", event.first, note="the first write of the transaction")
    yield opened(event.record)


RULE = Rule(
    slug="discarded-writes",
    severity="advice",
    summary="A rollback after an error discarded the writes of the caller, which then committed.",
    page=PAGE,
    on_in=frozenset({"log", "strict"}),
    events=(DiscardedWrites,),
    parts=(Write,),
    loses_data=True,
    check=check,
    safe_point="after the close of the session",
)
