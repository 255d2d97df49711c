"""``detached-write``: a change to a detached instance, which no session will save."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Finding, Options, Rule
from ..record.events import DetachedWrite
from ..record.story import history, primary, seen, session_of

PAGE = """
## What it reports
An attribute of a detached instance was set, appended to, removed from or deleted, and the instance was
neither added nor merged into a session, nor saved by `bulk_save_objects()`, before its unit of work (or
the test, or the program) ended or the instance was gone.

## Why it matters
The change looks like every other change, and no session will ever save it. Nothing raises.

## Bad
```python
with Session(engine) as session:
    order = session.scalars(select(Order)).first()
order.status = "shipped"
```

## Good
```python
with Session(engine) as session:
    order = session.scalars(select(Order)).first()
    order.status = "shipped"
    session.commit()
```

## When to allow
Where an instance is used as a plain object for display after its session has ended. `make_transient()`
says so in the program itself, and needs no allowance.
"""


def check(event: DetachedWrite, settings: Options) -> Iterator[Finding]:
    """One finding a change that nobody picked up."""
    owner = event.ownership
    subject = f"{event.model}.{event.attribute}"
    name = event.model.rpartition(".")[2].lower()
    yield Finding(
        rule="detached-write",
        severity="fault",
        subject=subject,
        message=f"{subject} was {event.verb}, but no session will save it",
        site=primary(event.mark, owner.loaded if owner else None, owner.opened if owner else None),
        evidence=(seen("changed", event.mark), *history(owner)),
        fix=f"make the change before the session closes, or merge the {name} into a new session and commit",
        session=session_of(owner),
        unit=owner.unit if owner else None,
    )


RULE = Rule(
    slug="detached-write",
    severity="fault",
    summary="A detached instance was changed, and no session will save the change.",
    page=PAGE,
    on_in=frozenset({"log", "strict"}),
    events=(DetachedWrite,),
    loses_data=True,
    check=check,
    safe_point="when the unit ends; else in the test's report",
)
