"""``shared-connection``: two on one connection of the driver's, and one ended the other one's transaction."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Evidence, Finding, Options, Rule
from ..record.events import SharedConnection
from ..record.fixes import session_name
from ..record.parts import Write
from ..record.story import counted, listed, opened, primary, seen, session_json

PAGE = """
## What it reports
Two sessions, or a session and a Core connection, worked on one connection of the database driver, and one of them
ended the transaction of the other: its rollback or close undid what the other had written, or its commit stored what
the other then rolled back. It happens where a pool hands one connection to several: `StaticPool`,
`SingletonThreadPool` (SQLite in memory), a `creator=` that returns the same connection every time.

Sessions that share a connection on purpose (`Session(bind=connection)`), and those that use it one after the other, are
not reported.

## Why it matters
A connection has one transaction, whatever the number of sessions. What the first session flushed is gone when the
second one is closed, although that only read; nobody rolled back, and the first one's commit stores nothing.

## Bad
```python
engine = memory_engine  # create_engine("sqlite://", poolclass=StaticPool)
first = Session(engine)
first.add(Order(status="new"))
first.flush()
with Session(engine) as second:
    second.scalars(select(Order)).all()
first.commit()
first.close()
```

## Good
```python
engine = memory_engine  # create_engine("sqlite://", poolclass=StaticPool)
first = Session(engine)
first.add(Order(status="new"))
first.commit()
with Session(engine) as second:
    second.scalars(select(Order)).all()
first.close()
```

## When to allow
In tests that look at exactly this.
"""

FIX = {
    "sync": "commit before another session works on this connection: session.commit()\n"
    "or give each session a connection of its own: a database file or server, and no StaticPool",
    "async": "commit before another session works on this connection: await session.commit()\n"
    "or give each session a connection of its own: a database file or server, and no StaticPool",
}


def check(event: SharedConnection, settings: Options) -> Iterator[Finding]:
    """One finding for each session whose transaction was ended."""
    writes = [write for write in event.writes if not write.temporary]
    if not writes:
        return
    record = event.record
    yield Finding(
        rule="shared-connection",
        severity="fault",
        subject=listed(dict.fromkeys(write.subject for write in writes)),
        message=_message(event, writes),
        site=primary(event.mark),
        evidence=tuple(_evidence(event, writes)),
        fix=FIX[record.kind].replace(
            "session.commit()", f"{session_name(record, *(write.mark for write in reversed(writes)))}.commit()"
        ),
        session=session_json(record),
        unit=record.unit.name if record.unit else None,
    )


def _message(event: SharedConnection, writes: list[Write]) -> str:
    what = listed(_counted(write) for write in writes)
    were = "was" if len(writes) == 1 and writes[0].count == 1 else "were"
    who = f"session {event.other.label}" if event.other is not None else "a connection"
    first = f"session {event.record.label}"
    if event.kind == "published":
        by = f"a commit of {who} on the same connection"
        return f"{what} of {first} {were} stored by {by}, though {first} did not commit"
    return f"{what} of {first} {were} undone because {who} {event.did} on the same connection"


def _counted(write: Write) -> str:
    return (
        f"{counted(write.count, 'row')} of {write.subject}"
        if write.what == "row"
        else counted(write.count, f"{write.subject} object")
    )


def _evidence(event: SharedConnection, writes: list[Write]) -> Iterator[Evidence]:
    yield seen(event.did, event.mark, event.other.label if event.other is not None else None)
    for write in reversed(writes):
        yield seen("written", write.mark, event.record.label, note=f"{_counted(write)} {write.verb}")
    if event.other is not None:
        yield opened(event.other)
    yield opened(event.record)


RULE = Rule(
    slug="shared-connection",
    severity="fault",
    summary="Two sessions shared a connection of the driver, and one ended the transaction of the other.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(SharedConnection,),
    parts=(Write,),
    loses_data=True,
    check=check,
    safe_point="after the close of the session that had written",
)
