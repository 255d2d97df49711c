"""``untracked-mutation``: a value that was changed in place, and a commit that did not write it."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Evidence, Finding, Options, Rule
from ..record.events import ChangedInPlace
from ..record.story import opened, primary, seen, session_json

PAGE = """
## What it reports
A JSON, ARRAY or pickled value was changed in place (`order.options["gift"] = True`), on a column without
`sqlalchemy.ext.mutable`, and the commit wrote nothing of it.

## Why it matters
SQLAlchemy notices a new value, not a change inside of one. The object in memory shows the change until it
is loaded again; the row never had it.

## Bad
```python
with Session(engine) as session:
    profile = Profile(options={"mail": True})
    session.add(profile)
    session.commit()
    profile.options["mail"] = False
    session.commit()
```

## Good
```python
with Session(engine) as session:
    profile = Profile(options={"mail": True})
    session.add(profile)
    session.commit()
    profile.options = {**profile.options, "mail": False}
    session.commit()
```

## When to allow
Where a loaded value is changed for display only. Better: change a copy of it.
"""

TRACKED = {"dict": "MutableDict", "list": "MutableList", "set": "MutableSet"}


def check(event: ChangedInPlace, settings: Options) -> Iterator[Finding]:
    """One finding a value that the commit left behind."""
    record = event.record
    evidence = [seen("committed", event.mark, record.label)]
    if event.loaded is not None:
        evidence.append(Evidence("loaded", event.loaded))
    yield Finding(
        rule="untracked-mutation",
        severity="fault",
        subject=f"{event.model}.{event.attribute}",
        message=f"{event.model}.{event.attribute} was changed in place, and the commit wrote nothing of it",
        site=primary(event.mark, event.loaded),
        evidence=(*evidence, opened(record)),
        fix=_fix(event),
        session=session_json(record),
        unit=record.unit.name if record.unit else None,
    )


def _fix(event: ChangedInPlace) -> str:
    flag = f'flag_modified({event.model.lower()}, "{event.attribute}")'
    if event.kind not in TRACKED:
        return f"say so before the commit: {flag}"
    column = f"{event.attribute} = mapped_column({TRACKED[event.kind]}.as_mutable({event.type}))"
    return f"let SQLAlchemy notice: {column};\nor say so before the commit: {flag}"


RULE = Rule(
    slug="untracked-mutation",
    severity="fault",
    summary="A JSON, ARRAY or pickled value was changed in place, and the commit wrote nothing of it.",
    page=PAGE,
    on_in=frozenset({"strict"}),
    events=(ChangedInPlace,),
    loses_data=True,
    check=check,
    safe_point="after the commit's flush, before it is sent",
)
