"""``detached-access``: a read that needs the database, on an instance without a session."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import LOADED_VALUES, UNPICKLED, Finding, Options, Ownership, Rule
from ..record.events import DetachedRead
from ..record.fixes import name_nearby
from ..record.story import history, primary, seen, session_of
from ._loader_options import WHAT, expired_by_commit, needs_option, option, query

PAGE = """
## What it reports
An attribute that is not loaded (a relationship, a deferred or expired column) was read on an instance
whose session is gone. SQLAlchemy raises `DetachedInstanceError`; sessionwatch adds to that exception,
as a note, who opened and closed the session, where the instance was loaded and what expired it.

## Why it matters
The read works in one call order and fails in another. The exception names the attribute, but neither the
session that ended too early nor the query that did not load enough.

## Bad
```python
with Session(engine) as session:
    order = session.scalars(select(Order)).first()
order.items
```

## Good
```python
with Session(engine) as session:
    order = session.scalars(select(Order).options(selectinload(Order.items))).first()
order.items
```

## When to allow
Hardly ever: the read raises. A serializer that probes attributes and swallows the error may be allowed
where it probes, with the reason.
"""


def check(event: DetachedRead, settings: Options) -> Iterator[Finding]:
    """One finding a read that SQLAlchemy refuses."""
    owner = event.ownership
    subject = f"{event.model}.{event.attribute}"
    yield Finding(
        rule="detached-access",
        severity="fault",
        subject=subject,
        message=_message(event, subject),
        site=primary(event.mark, owner.loaded if owner else None, owner.opened if owner else None),
        evidence=(seen("touched", event.mark), *history(owner)),
        fix=_fix(event, owner, bool(settings.get(LOADED_VALUES))),
        session=session_of(owner),
        unit=owner.unit if owner else None,
    )


def _message(event: DetachedRead, subject: str) -> str:
    owner, what = event.ownership, WHAT[event.kind]
    if owner is not None and owner.missing == UNPICKLED:
        return f"{subject} was read on an unpickled or copied {event.model}, which has no session; {what} needs one"
    return f"{subject} was read after its session had ended; {what} needs a session"


def _fix(event: DetachedRead, owner: Ownership | None, touches: bool) -> str:
    """``touches``: reads of loaded values are reported as well, so that to load more is no way out."""
    name = event.model.rpartition(".")[2].lower()
    if owner is not None and owner.missing == UNPICKLED:
        return f"merge it into a session first, and read it from what comes back: {name} = session.merge({name})"
    emptied = expired_by_commit(owner)
    if touches:
        return "read it while the session is open, and pass the value on"
    asked = option(event) if needs_option(event) else ""
    if asked and not event.queried:  # the session made it
        await_ = "await " if owner is not None and owner.kind == "async" else ""
        call = f'{await_}{name_nearby(event.record)}.refresh({name}, ["{event.attribute}"])'
        return f"load it before the session closes, after the last commit: {call}"
    if not asked:
        if emptied:
            return "read it before the commit, or make the sessions with expire_on_commit=False"
        return "read it while the session is open"
    if emptied and event.kind != "inherited":  # what was loaded with the query would be gone, too
        return f"load it with {query(event)}: {asked},\nand make the sessions with expire_on_commit=False"
    return f"load it with {query(event)}: {asked}"


RULE = Rule(
    slug="detached-access",
    severity="fault",
    summary="An attribute that is not loaded was read on an instance whose session has ended.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(DetachedRead,),
    check=check,
    changes=("loaded",),
    safe_point="at the read, in place of SQLAlchemy's own error and as one of its kind",
)
