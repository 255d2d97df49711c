"""``session-leak``: a session that nobody closed, with its connection still checked out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..frames.callsite import looked_at
from ..model import Evidence, Finding, Mark, Options, Rule
from ..record.events import SessionEnded
from ..record.fixes import Provider, awaited, opening, registry
from ..record.story import executed, opened, primary, session_json, taken

if TYPE_CHECKING:
    from ..record.life import SessionRecord

PAGE = """
## What it reports
A session was collected, or is alive at the end of its unit of work or of the program, with its connection
still checked out. It names who opened the session (for a registry's: who took it last), its last statement and
how long the transaction was open. A session that somebody still holds after its thread or task has ended is
`long-session`'s.

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

_WORTH_SAYING = 0.1  # seconds


def check(event: SessionEnded, settings: Options) -> Iterator[Finding]:
    """One finding a session that ended unclosed with a connection."""
    record = event.record
    if event.how not in ("collected", "unit", "scope", "exit") or event.leaked or not event.holds_connection:
        return
    held = "with its connection checked out"
    ended = {
        "collected": f"dropped {held}",
        "unit": f"open at the end of its unit {held}",
        "scope": f"open at the end of {event.scope} {held}",
        "exit": "never closed and still held a connection at exit",
    }
    kind = "an async session" if record.kind == "async" else "a session"
    last = _taken(record)
    function = _function(last or record.opened)
    yield Finding(
        rule="session-leak",
        severity="fault",
        subject=function or "session",
        message=f"{kind} was {ended[event.how]}",
        site=primary(last or record.opened),
        evidence=tuple(_evidence(event)),
        fix=_fix(record),
        session=session_json(record),
        unit=record.unit.name if record.unit else None,
    )


def _taken(record: SessionRecord) -> Mark | None:
    """Who took it last, of a session that belongs to a registry."""
    return looked_at(record.taken) if record.taken is not None else None


def _fix(record: SessionRecord) -> str:
    """What gives the connection back, as it is written where the session comes from."""
    asked, name = registry(record), "AsyncSession" if record.kind == "async" else "Session"
    block = "async with" if record.kind == "async" else "with"
    if asked is not None:
        return f"remove it where the work of its scope ends: {awaited(record)}{asked}.remove()"
    provider = Provider(record.opened)
    called = provider.called(record.last_site)
    if provider.how == "return":
        return f"close it where it is used: `{block} {called} as session:`"
    if provider.how == "yield":
        manager = "asynccontextmanager" if record.kind == "async" else "contextmanager"
        return (
            f"end its provider where it is used: decorate {provider.name}() with `@{manager}`, and\n"
            f"`{block} {called} as session:`"
        )
    return f"close it where it is made: `{block} {opening(record, name + '(engine)')} as session:`"


def _function(mark: Mark | None) -> str | None:
    return mark.site.resolve().function if mark is not None and mark.site is not None else None


def _evidence(event: SessionEnded) -> Iterator[Evidence]:
    record = event.record
    yield from executed(record)
    yield from taken(record)
    first = opened(record)
    held = f"transaction open for {event.seconds_open:.1f} s" if event.seconds_open >= _WORTH_SAYING else ""
    note = ", ".join(part for part in (first.note, held) if part)
    yield Evidence("opened", first.site, first.thread, first.task, first.session, note)


RULE = Rule(
    slug="session-leak",
    severity="fault",
    summary="A session was never closed, and its connection never went back to the pool.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(SessionEnded,),
    check=check,
    changes=("taken", "opened"),
    safe_point="when the unit ends; else in the test's report",
)
