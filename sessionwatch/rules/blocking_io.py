"""``blocking-io``: a sync session or engine that runs a statement on a thread with a running event loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..model import Evidence, Finding, Level, Limits, Options, Rule, Setting
from ..record.events import Blocked
from ..record.fixes import awaits_nothing
from ..record.story import opened, primary, seen, session_json

PAGE = """
## What it reports
A sync session, or a connection of a sync engine, ran a statement on a thread whose asyncio event loop was
running. The message has the operation, the table and the milliseconds; several statements from one place
are one finding with a count.

## Why it matters
While the database works, the loop stands still: no other request, timer or heartbeat is served. It is not
seen on one's own machine, where a statement takes a millisecond, and is what a service dies of when the
database is slow.

## Bad
```python
import asyncio

async def orders():
    with Session(engine) as session:
        return session.scalars(select(Order)).all()

asyncio.run(orders())
```

## Good
```python
import asyncio

async def orders():
    async with AsyncSession(async_engine) as session:
        return (await session.scalars(select(Order))).all()

asyncio.run(orders())
```

## When to allow
Where nothing else waits for the loop, as in a script with one coroutine. What the lifespan of an ASGI application
runs before the server serves is not reported. What is faster than `blocking-io.milliseconds` is not reported: by
default everything is in development and in tests, and what takes 50 ms in production.
"""

FIX = "use create_async_engine() and AsyncSession, or run the sync code in a thread:\nawait asyncio.to_thread(...)"


def check(event: Blocked, settings: Options) -> Iterator[Finding]:
    """One finding a statement that took as long as the threshold, or longer."""
    if event.milliseconds < settings.number("milliseconds"):
        return
    record = event.record
    what = "sync session" if record is not None else "sync engine"
    yield Finding(
        rule="blocking-io",
        severity="advice",
        subject=what,
        message=f"{event.statement} held up the event loop for {event.milliseconds:.1f} ms, run by a {what}",
        site=primary(event.mark),
        evidence=tuple(_evidence(event)),
        fix=_fix(event),
        session=session_json(record) if record is not None else None,
        unit=record.unit.name if record is not None and record.unit else None,
    )


def _fix(event: Blocked) -> str:
    unit = event.record.unit if event.record is not None else None
    if event.coroutine is None or not event.by_threads or unit is None or not awaits_nothing(event.coroutine):
        return FIX
    name = event.coroutine.resolve().function.rpartition(".")[2]
    return (
        f"write `def {name}` for `async def {name}`: it awaits nothing, and the framework calls it in a\n"
        f"thread then; else {FIX}"
    )


def _evidence(event: Blocked) -> Iterator[Evidence]:
    yield seen("ran", event.mark, event.record.label if event.record is not None else None)
    ran, within = event.mark.site, event.coroutine
    if within is not None and (ran is None or ran.code is not within.code):
        yield Evidence("async def", within.resolve(), note="holds up the loop meanwhile")
    if event.record is not None:
        yield opened(event.record)


def _limits(limits: Limits, settings: Options, level: Level) -> Limits:
    return replace(limits, blocked=settings.number("milliseconds") / 1000)


RULE = Rule(
    slug="blocking-io",
    severity="advice",
    summary="A sync session or engine ran a statement on a thread with a running event loop.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(Blocked,),
    check=check,
    settings={
        "milliseconds": Setting(
            0.0,
            "how long a statement must take to be reported",
            defaults={"telemetry": 50.0},
            least=0,
        )
    },
    safe_point="after the statement has run",
    limits=_limits,
)
