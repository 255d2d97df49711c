"""``cross-task``: two threads or two asyncio tasks inside one session at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..model import Evidence, Finding, Options, Rule
from ..record.events import Overlap
from ..record.fixes import opening
from ..record.story import live_on, opened, session_json

if TYPE_CHECKING:
    from ..record.parts import Actor

PAGE = """
## What it reports
A thread or an asyncio task used a session while another one was still inside of it: a statement was
being run, a connection was being taken, a flush or a commit was under way. Both are shown: who they are,
where they were created, where they are now. Where SQLAlchemy or the driver refuses by itself
(`IllegalStateChangeError`, "another operation is in progress"), its error gets the story as a note; most
of these races nobody refuses. A session that is handed on in sequence is not reported.

## Why it matters
A session is one transaction on one connection, and the state of its objects. Two that work in it at the
same time mix their statements into one transaction, commit each other's half of the work, and get each
other's rows.

## Bad
```python
import asyncio

async def read(session, model):
    return (await session.scalars(select(model))).all()

async def main():
    async with AsyncSession(async_engine) as session:
        await session.connection()
        await asyncio.gather(read(session, Order), read(session, Item))

asyncio.run(main())
```

## Good
```python
import asyncio

async def read(model):
    async with AsyncSession(async_engine) as session:
        return (await session.scalars(select(model))).all()

async def main():
    await asyncio.gather(read(Order), read(Item))

asyncio.run(main())
```

## When to allow
Hardly ever. A lock of your own around every use of the session makes the uses a sequence, which is not
reported.
"""


def check(event: Overlap, settings: Options) -> Iterator[Finding]:
    """One finding a place that came in second."""
    first, second, record = event.first, event.second, event.record
    yield Finding(
        rule="cross-task",
        severity="fault",
        subject="session",
        message=f"{second.kind} {second.name} {event.did} while {first.kind} {first.name} was still inside of it",
        site=second.now or first.now,
        evidence=tuple(_evidence(event)),
        fix=_fix(event),
        session=session_json(record),
        unit=record.unit.name if record.unit else None,
    )


def _fix(event: Overlap) -> str:
    record = event.record
    if record.closer is not None and "close" in event.did:  # a generator's end, in a task of the loop's
        return live_on(record.closer)
    tasks = "task" in (event.first.kind, event.second.kind)
    block, made = ("async with", "AsyncSession(engine)") if record.kind == "async" else ("with", "Session(engine)")
    one = f"{block} {opening(record, made)} as session"
    return f"give each {'task' if tasks else 'thread'} a session of its own: {one}: ..."


def _evidence(event: Overlap) -> Iterator[Evidence]:
    yield from _side("second", event.second, event.record.label)
    yield from _side("first", event.first, event.record.label)
    yield opened(event.record)


def _side(label: str, actor: Actor, session: str) -> Iterator[Evidence]:
    task = actor.name if actor.kind == "task" else None
    thread = actor.name if actor.kind == "thread" else None
    yield Evidence(
        label, actor.now, thread, task, session, "" if actor.now else f"{actor.kind} {actor.name}, place unknown"
    )
    if actor.created is not None:
        yield Evidence("created", actor.created, thread, task)


RULE = Rule(
    slug="cross-task",
    severity="fault",
    summary="Two threads or asyncio tasks were inside of one session at the same time.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(Overlap,),
    loses_data=True,
    check=check,
    safe_point="before the second one's statement is sent; where an error is on its way, that one gets the story",
)
