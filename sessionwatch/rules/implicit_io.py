"""``implicit-io``: a read that needs the database under asyncio, where nothing awaits it."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Finding, Options, Ownership, Rule
from ..record.events import ImplicitRead
from ..record.fixes import instance_name, name_nearby
from ..record.story import history, primary, seen, session_of
from ._loader_options import WHAT, expired_by_commit, needs_option, option, query

PAGE = """
## What it reports
Under asyncio, an attribute that is not loaded (a relationship, a deferred or expired column) was read as a
plain attribute. The read needs the database, and there is nothing that could wait for it: SQLAlchemy raises
`MissingGreenlet`, which version 2.1 may wrap in `StatementError`. sessionwatch adds to that exception, as a
note, the query that did not load the attribute, what expired it, and who opened the session.

## Why it matters
The exception names neither the attribute nor the reason. The line that fails is often far from the line to
change: the query, or the commit that expired what had been loaded.

## Bad
```python
async def main():
    async with AsyncSession(async_engine) as session:
        order = (await session.scalars(select(Order))).first()
        print(len(order.items))

asyncio.run(main())
```

## Good
```python
async def main():
    async with AsyncSession(async_engine) as session:
        order = (await session.scalars(select(Order).options(selectinload(Order.items)))).first()
        print(len(order.items))

asyncio.run(main())
```

## When to allow
Hardly ever: the read raises. A serializer that probes attributes and swallows the error may be allowed
where it probes, with the reason. `awaitable_attrs` and `run_sync()` are not reported.
"""


def check(event: ImplicitRead, settings: Options) -> Iterator[Finding]:
    """One finding a read that SQLAlchemy refuses."""
    owner = event.ownership
    subject = f"{event.model}.{event.attribute}"
    yield Finding(
        rule="implicit-io",
        severity="fault",
        subject=subject,
        message=f"{subject} was read where nothing awaits it; {WHAT[event.kind]} needs the database",
        site=primary(event.mark, owner.loaded if owner else None, owner.opened if owner else None),
        evidence=(seen("touched", event.mark), *history(owner, "opened")),
        fix=_fix(event, owner),
        session=session_of(owner),
        unit=owner.unit if owner else None,
    )


def _fix(event: ImplicitRead, owner: Ownership | None) -> str:
    instance, session = instance_name(event.model, event.mark), name_nearby(event.record, event.mark)
    refresh = f'await {session}.refresh({instance}, ["{event.attribute}"])'
    if not needs_option(event):
        if expired_by_commit(owner):
            return "make the sessions with expire_on_commit=False"
        if owner is not None and (owner.expired_how or "").startswith("by flush()"):
            return f'let the flush fetch it: __mapper_args__ = {{"eager_defaults": True}} on {event.model}'
        return f"load it again first: {refresh}"
    asked = option(event) if event.queried else ""
    if not asked:
        return f"load it first: {refresh}"
    emptied = ",\nand make the sessions with expire_on_commit=False" if expired_by_commit(owner) else ""
    return f"load it with {query(event)}: {asked}{emptied}"


RULE = Rule(
    slug="implicit-io",
    severity="fault",
    summary="Under asyncio, an attribute that is not loaded was read where nothing could await the database.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(ImplicitRead,),
    check=check,
    changes=("loaded",),
    safe_point="at the read, in place of SQLAlchemy's own error and as one of its kind",
)
