"""``session-leak``: a session that nobody closed, with its connection still checked out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..frames.callsite import looked_at
from ..model import Evidence, Finding, Mark, Rule
from ..record.events import SessionAbandoned, SessionEnded
from ..record.story import executed, holds, opened, primary, seen, session_json

PAGE = """
## What it reports
A session was collected, or is alive at the end of its unit of work or of the program, with its connection
still checked out; also an async session that was dropped inside a transaction, and, while it happens, one
whose thread or task has ended without closing it, once nothing was done with it for `long-session.seconds`.
It names who opened the session, its last statement and how long the transaction was open.

## Why it matters
Each such session takes a connection from the pool until the garbage collector finds it. Under load the
pool runs dry, and the request that fails is not the one that leaked.

## Bad
```python
session = Session(engine)
session.scalars(select(Order)).all()
del session
```

## Good
```python
with Session(engine) as session:
    session.scalars(select(Order)).all()
```

## When to allow
A session that a script holds for as long as it runs, on purpose.
"""


def check(event: SessionEnded, settings: dict[str, Any]) -> Iterator[Finding]:
    """One finding a session that ended unclosed with a connection."""
    record = event.record
    if event.how not in ("collected", "unit", "scope", "exit", "abandoned") or record.leaked:
        return
    abandoned = record.kind == "async" and event.in_transaction and event.how not in ("unit", "scope")
    if not event.holds_connection and not abandoned:
        return
    where = {
        "collected": "dropped",
        "unit": "open at the end of its unit",
        "scope": f"open at the end of {event.scope}",
        "exit": "open when the program ended",
        "abandoned": f"left open by a {'task' if record.kind == 'async' else 'thread'} that has ended,",
    }
    holding = "with its connection checked out" if event.holds_connection else "inside a transaction"
    kind = "an async session" if record.kind == "async" else "a session"
    taken = _taken(record)
    function = _function(taken or record.opened)
    yield Finding(
        rule="session-leak",
        severity="fault",
        subject=function or "session",
        message=f"{kind} was {where[event.how]} {holding}",
        site=primary(taken or record.opened),
        evidence=tuple(_evidence(event)),
        fix="close it where it is made: `async with AsyncSession(engine) as session:`"
        if record.kind == "async"
        else "close it where it is made: `with Session(engine) as session:`",
        session=session_json(record),
        unit=record.unit.name if record.unit else None,
    )


def _taken(record: Any) -> Mark | None:
    """Who took it last, of a session that belongs to a registry."""
    return looked_at(record.taken) if record.taken is not None else None


def _function(mark: Mark | None) -> str | None:
    return mark.site.resolve().function if mark is not None and mark.site is not None else None


def _evidence(event: SessionEnded) -> Iterator[Evidence]:
    record = event.record
    if event.holder is not None:
        yield holds(event.holder)
    yield from executed(record)
    taken = _taken(record)
    if taken is not None and (record.opened is None or taken.site != record.opened.site):
        yield seen("taken", taken, record.label, "from its registry")
    held = f"transaction open for {event.seconds_open:.1f} s"
    first = opened(record)
    note = f"{first.note}, {held}" if first.note else held
    yield Evidence("opened", first.site, first.thread, first.task, first.session, note)


RULE = Rule(
    slug="session-leak",
    severity="fault",
    summary="A session was never closed, and its connection never went back to the pool.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(SessionEnded, SessionAbandoned),
    check=check,
    safe_point="when the unit ends; else in the test's report",
)
