"""``foreign-loop``: a pooled connection that was opened on one event loop and failed on another one."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Evidence, Finding, Options, Rule
from ..record.events import ForeignLoop
from ..record.story import opened, primary, seen, session_json

PAGE = """
## What it reports
An asyncio engine's pool handed out a connection that it had opened on another event loop, and the driver failed:
"attached to a different loop", "another operation is in progress", "Event loop is closed". The driver's error gets
the story as a note. A use that works is not reported: aiosqlite and psycopg do not depend on the loop.

## Why it matters
The error names neither the engine nor the loop, and it comes by chance: only where the pool has kept a connection.
It is met where `asyncio.run()` is called more than once (a Celery task, a command, a worker thread), and in test
suites that make a loop for each test and the engine once.

## Bad
```python
import asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine(asyncpg_url)

async def job():
    async with engine.connect() as connection:
        return await connection.scalar(text("SELECT 42"))

for _ in range(2):
    try:
        asyncio.run(job())
    except Exception as error:
        print(error)
```

## Good
```python
import asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine(asyncpg_url)

async def job():
    async with engine.connect() as connection:
        answer = await connection.scalar(text("SELECT 42"))
    await engine.dispose()
    return answer

for _ in range(2):
    asyncio.run(job())
```

## When to allow
Where the error is expected and answered, for example by a retry on a new engine.
"""

FIX = (
    "dispose of the engine before its event loop ends: await engine.dispose()\n"
    "or keep no connection: create_async_engine(url, poolclass=NullPool)\n"
    "in tests, one loop for all of them: asyncio_default_fixture_loop_scope = session"
)


def check(event: ForeignLoop, settings: Options) -> Iterator[Finding]:
    """One finding for each connection."""
    record = event.record
    failed = f"{event.statement} failed" if event.statement else "a connection failed"
    end = ", which has been closed" if event.closed else ""
    yield Finding(
        rule="foreign-loop",
        severity="fault",
        subject="session" if record is not None else "engine",
        message=f"{failed} because its connection was opened on another event loop{end}",
        site=primary(event.used),
        evidence=tuple(_evidence(event)),
        fix=FIX,
        session=session_json(record) if record is not None else None,
        unit=record.unit.name if record is not None and record.unit else None,
    )


def _evidence(event: ForeignLoop) -> Iterator[Evidence]:
    note = "on the loop that runs now"
    yield seen("used", event.used, event.record.label if event.record is not None else None, note=note)
    yield seen("connected", event.connected, note="on the other loop")
    if event.record is not None:
        yield opened(event.record)


RULE = Rule(
    slug="foreign-loop",
    severity="fault",
    summary="A pooled connection that was opened on one event loop failed on another one.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(ForeignLoop,),
    check=check,
    safe_point="a note on the driver's error, which is on its way",
)
