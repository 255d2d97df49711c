"""``detached-touch``: a read of a loaded value, after the session has ended."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Finding, Options, Rule, Setting
from ..record.events import DetachedTouch
from ..record.story import history, primary, seen, session_of

PAGE = """
## What it reports
A value that is loaded was read on an instance whose session has ended. The read works; it works because
this attribute happens to be loaded, and shows what the row held when the session was open.

## Why it matters
A session's bounds are its data's bounds. The next attribute that is read in the same place may not be
loaded (`detached-access`), and the value may be out of date. In tests it pays to be strict about it.

## Bad
```python
with Session(engine) as session:
    order = session.scalars(select(Order)).first()
order.status
```

## Good
```python
with Session(engine) as session:
    order = session.scalars(select(Order)).first()
    status = order.status
status
```

## When to allow
A code base that serves detached objects on purpose (`expire_on_commit=False` and a response built after
the session has closed) switches the rule off: `detached-touch = "off"` in `[tool.sessionwatch.rules]`.
Reading primary keys alone is allowed by `detached-touch.primary-keys = "allow"`. Objects that are
expunged inside `allow("detached-touch", reason=...)` are never reported.
"""


def check(event: DetachedTouch, settings: Options) -> Iterator[Finding]:
    """One finding a read of a loaded value."""
    if event.is_key and settings["primary-keys"] == "allow":
        return
    owner = event.ownership
    subject = f"{event.model}.{event.attribute}"
    yield Finding(
        rule="detached-touch",
        severity="fault",
        subject=subject,
        message=f"{subject} was read after its session had ended",
        site=primary(event.mark, owner.loaded if owner else None, owner.opened if owner else None),
        evidence=(seen("touched", event.mark), *history(owner)),
        fix="read it while the session is open and pass the value on;\n"
        'where detached objects are served on purpose, set detached-touch = "off" in [tool.sessionwatch.rules]',
        session=session_of(owner),
        unit=owner.unit if owner else None,
    )


RULE = Rule(
    slug="detached-touch",
    severity="fault",
    summary="A loaded value was read on an instance whose session has ended.",
    page=PAGE,
    on_in=frozenset({"strict"}),
    events=(DetachedTouch,),
    check=check,
    safe_point="at the read, before the value is returned",
    settings={
        "primary-keys": Setting("report", "whether reads of primary keys are reported", ("report", "allow")),
    },
)
