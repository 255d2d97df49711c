"""``cross-session``: one instance, or one row, in two sessions at the same time."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Evidence, Finding, Options, Rule
from ..record.events import ChangedTwice, GivenAway
from ..record.fixes import awaited, session_name
from ..record.story import listed, opened, primary, seen, session_json

PAGE = """
## What it reports
An instance that belongs to one open session was given to another one: added, reached by a cascade, or set
as the value of a relationship, refreshed, expired or deleted by it, or, while it is pending, used as a parameter of
its query. SQLAlchemy raises; its error gets the story as a note. Or it was merged into the other one, and then changed
itself instead of the copy, and its own session ended without a commit. And: one row was
changed in two sessions that were open at the same time, within one unit of work (without one: within one
thread and task), so that the second one wrote without having seen what the first one wrote.

## Why it matters
The error names neither session. A row that is changed twice raises nothing: the later write wins, and the
objects in memory and the row tell different stories.

## Bad
```python
with Session(engine) as session, Session(engine) as other:
    order = session.scalars(select(Order)).first()
    same = other.scalars(select(Order)).first()
    order.status = "paid"
    session.commit()
    same.status = "sent"
    other.commit()
```

## Good
```python
with Session(engine) as session:
    order = session.scalars(select(Order)).first()
    order.status = "paid"
    session.commit()
    order.status = "sent"
    session.commit()
```

## When to allow
A program that lets two sessions race on purpose, to see that its own lock or retry works. Mappings with a
`version_id_col` are not reported: SQLAlchemy refuses the second write.
"""


HOW = {
    "given": "was given to",
    "refreshed": "was refreshed by",
    "expired": "was expired by",
    "asked": "has no key yet, but is asked for in",
}


def check(event: GivenAway | ChangedTwice, settings: Options) -> Iterator[Finding]:
    """One finding an instance that was given away, and a row that was changed twice."""
    yield _given(event) if isinstance(event, GivenAway) else _changed(event)


def _given(event: GivenAway) -> Finding:
    record, holder, name = event.record, event.holder, event.model.lower()
    owner = f"session {holder.label}" if holder is not None else "another session"
    evidence = [seen(event.how, event.mark, record.label), opened(record)]
    if event.loaded is not None:
        evidence.append(Evidence("loaded", event.loaded, session=holder.label if holder is not None else None))
    if holder is not None:
        evidence.append(opened(holder))
    name_of = session_name(record, event.mark)
    load = f"{awaited(record)}{name_of}.get({event.model}, {name}.id)"
    return Finding(
        rule="cross-session",
        severity="fault",
        subject=event.model,
        message=_message(event, owner),
        site=primary(event.mark, event.loaded),
        evidence=tuple(evidence),
        fix=f"use one session for both: add the {name} to the session that asks, which flushes it first"
        if event.how == "asked"
        else f"change what merge() returned: {name} = {awaited(record)}{name_of}.merge({name})"
        if event.how == "merged"
        else f"use one session for both, or load the {name} in the session that needs it:\n{name} = {load}",
        session=session_json(record),
        unit=record.unit.name if record.unit else None,
    )


def _message(event: GivenAway, owner: str) -> str:
    if event.how == "merged":
        names = listed(f"{event.model}.{name}" for name in event.attributes)
        were = "was" if len(event.attributes) == 1 else "were"
        return (
            f"{names} {were} changed on the original after session {event.record.label} had merged it; nobody stored it"
        )
    return f"the {event.model} belongs to {owner}, which is open, and {HOW[event.how]} session {event.record.label}"


def _changed(event: ChangedTwice) -> Finding:
    record, model = event.record, event.model
    other = event.other.label if event.other is not None else "another session"
    both = [name for name in event.attributes if name in event.other_attributes]
    names = listed(f"{model}.{name}" for name in both)
    first, second = listed(event.other_attributes), listed(event.attributes)
    message = f"one {model} was changed in two open sessions: {first} in {other}, {second} in {record.label}"
    if both:
        verb = "was" if len(both) == 1 else "were"
        message = f"{names} of one row {verb} changed in two open sessions; the later write wins"
    return Finding(
        rule="cross-session",
        severity="fault",
        subject=names or model,
        message=message,
        site=primary(event.mark, event.loaded),
        evidence=tuple(_evidence(event)),
        fix=f"change the {model.lower()} in one session: pass the session on, or end the first before the second loads",
        session=session_json(record),
        unit=record.unit.name if record.unit else None,
    )


def _evidence(event: ChangedTwice) -> Iterator[Evidence]:
    record, other = event.record, event.other
    label = other.label if other is not None else None
    yield seen("written", event.mark, record.label)
    if event.other_mark is not None:
        yield seen("written", event.other_mark, label)
    else:
        yield Evidence("changed", None, session=label, note=f"in session {label}, not written yet")
    if event.loaded is not None:
        yield Evidence("loaded", event.loaded, session=record.label)
    yield opened(record)
    if other is not None:
        yield opened(other)


RULE = Rule(
    slug="cross-session",
    severity="fault",
    summary="One instance, or one row, was in two open sessions at the same time.",
    page=PAGE,
    on_in=frozenset({"log", "strict"}),
    events=(GivenAway, ChangedTwice),
    check=check,
    safe_point="before the second session flushes; where SQLAlchemy refuses, its error gets the story",
)
