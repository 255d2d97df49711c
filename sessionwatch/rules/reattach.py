"""``reattach``: an instance of a session that ended was given to another one, with harm."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Evidence, Finding, Options, Rule
from ..record.events import Reattached
from ..record.fixes import awaited, session_name
from ..record.story import history, listed, opened, primary, seen, session_json

PAGE = """
## What it reports
A detached instance was added or merged into another session, with harm: older values went over newer
ones (the merged copy differs from the row just loaded, and nobody set the difference since the instance
was detached), a deleted row came back, the session held another instance of the row already, or an UPDATE
matched no row. Where SQLAlchemy raises by itself, its error gets the story as a note.

## Why it matters
A merge copies every loaded column, not only those that were changed. What somebody else wrote meanwhile
is overwritten by a value that nobody chose, and nothing raises.

## Bad
```python
with Session(engine) as session:
    order = session.scalars(select(Order)).first()
with Session(engine) as session:
    session.scalars(select(Order)).one().status = "paid"
    session.commit()
with Session(engine) as session:
    session.merge(order)
    session.commit()
```

## Good
```python
with Session(engine) as session:
    order_id = session.scalars(select(Order.id)).first()
with Session(engine) as session:
    session.get(Order, order_id).notes = "paid in cash"
    session.commit()
```

## When to allow
Where the merged copy is meant to win over whatever is stored, as in the restore of a backup.
"""


def check(event: Reattached, settings: Options) -> Iterator[Finding]:
    """One finding an instance that was received with harm."""
    owner = event.ownership
    names = [f"{event.model}.{attribute}" for attribute in event.attributes]
    yield Finding(
        rule="reattach",
        severity="fault",
        subject=listed(names) if names else event.model,
        message=_message(event, names),
        site=primary(event.mark, owner.loaded if owner else None, owner.opened if owner else None),
        evidence=tuple(_evidence(event)),
        fix=_fix(event),
        session=session_json(event.record),
        unit=event.record.unit.name if event.record.unit else None,
    )


def _message(event: Reattached, names: list[str]) -> str:
    model, session = event.model, event.record.label
    if event.kind == "stale":
        values = "an older value was" if len(names) == 1 else "older values were"
        return f"{values} merged over {listed(names)}, which had changed since the {model} was loaded"
    return {
        "revived": f"a detached {model} was merged though its row is gone; the next flush inserts it again",
        "deleted": f"a deleted {model} was added to session {session}",
        "duplicate": f"a detached {model} was added to session {session}, which holds another instance of its row",
        "unmatched": f"a detached {model} was added to session {session}, and its UPDATE matched no row",
        "outdated": f"a detached {model} was merged, and its row has another version",
    }[event.kind]


def _fix(event: Reattached) -> str:
    name = event.model.lower()
    session = session_name(event.record, event.mark)
    load = f"{awaited(event.record)}{session}.get({event.model}, {name}_id)"
    return {
        "stale": f"pass the key, load the {name} where it is changed, and set only what changes:\n{name} = {load}",
        "revived": f"look first whether it is still there: {name} = {load};\n"
        f"to store it again on purpose: make_transient({name}), then {session}.add({name})",
        "deleted": f"to store it again on purpose: make_transient({name}), then {session}.add({name})",
        "duplicate": f"change the instance that the session holds: {name} = {load}",
        "unmatched": f"load the {name} in the session that changes it, and look whether it is there:\n{name} = {load}",
        "outdated": f"load the {name} again in this session, and make the change there: {name} = {load}",
    }[event.kind]


def _evidence(event: Reattached) -> Iterator[Evidence]:
    record = event.record
    if event.flushed is not None:
        yield seen("flushed", event.flushed, record.label)
    yield seen(event.verb, event.mark, record.label)
    if event.present is not None:
        yield Evidence("present", event.present, session=record.label, note="loaded here")
    yield opened(record)
    yield from history(event.ownership)


RULE = Rule(
    slug="reattach",
    severity="fault",
    summary="A detached instance was added or merged into another session, and did harm there.",
    page=PAGE,
    on_in=frozenset({"log", "strict"}),
    events=(Reattached,),
    loses_data=True,
    check=check,
    safe_point="after merge() has ended; where SQLAlchemy refuses, its error gets the story",
)
