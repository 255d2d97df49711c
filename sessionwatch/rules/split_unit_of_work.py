"""``split-unit-of-work``: one unit of work that was committed in two sessions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..model import Evidence, Finding, Options, Rule
from ..record.events import SplitCommit
from ..record.story import BEFORE_INSTALL, primary, seen, session_json

if TYPE_CHECKING:
    from ..record.parts import Commit

PAGE = """
## What it reports
Two sessions committed writes to the same database within one unit of work: a request (ASGI, WSGI), a task
(Celery, a background task), a `unit_of_work()`. It points at the second session's first write, once per unit. Worse,
and said so: one session committed, and another one's writes were refused, rolled back or lost, so that half of the
unit is stored. A task that was begun after the commit is a unit of its own, and so is a session that was opened
after the other one had failed, or that one line opens again and again.

Without any of these the unit is one call of the function that asked for both sessions from different lines:
itself, through a provider, or by calling two functions with a session of their own. A module's own code is
no unit, nor are the rounds of a loop. The outermost function (`main()`, also where a test calls it; a thread's
target) counts only with sessions that it asked for itself, a test not at all: a test plays several parts. Half of a
call is stored where the second session fails and the error leaves that call. Mode `telemetry`, and any mode under a
debugger or a tracer such as coverage's, looks at declared units only.

## Why it matters
The unit is not atomic. Where the second commit fails, the first one stays, and the data say something that
never was true. The second session may also wait for a lock that the first one holds.

## Bad
```python
def rename(number, name):
    with Session(engine) as session:
        session.get(Customer, number).name = name
        session.commit()
    with Session(engine) as session:
        session.add(Order(customer_id=number, status="renamed"))
        session.commit()

rename(1, "Grace")
```

## Good
```python
def rename(number, name):
    with Session(engine) as session, session.begin():
        session.get(Customer, number).name = name
        session.add(Order(customer_id=number, status="renamed"))

rename(1, "Grace")
```

## When to allow
Where one part shall be kept though the other fails: an audit trail, the state of a job, an outbox. Say so
for the whole unit by `unit_of_work("import", sessions="many")`. A websocket counts as declared that way.
"""


def check(event: SplitCommit, settings: Options) -> Iterator[Finding]:
    """One finding a unit and database, at the commit of the second session that wrote."""
    what = event.unit if event.unit is not None else f"one call of {event.function}()"
    yield Finding(
        rule="split-unit-of-work",
        severity="advice",
        subject=event.unit if event.unit is not None else str(event.function),
        message=f"{what} committed its writes in two sessions: the first ones stay where the second ones fail"
        if event.stored
        else f"half of {what} is stored: one session committed, and another one's writes were rolled back",
        site=primary(event.second.written),
        evidence=(*_evidence(event.second, "committed" if event.stored else "undone"), *_evidence(event.first)),
        fix="use one session and one commit for all of it: hand the first session on; where it is meant,\n"
        'say so: `with unit_of_work("…", sessions="many"):`',
        session=session_json(event.record),
        unit=event.unit,
    )


def _evidence(commit: Commit, end: str = "committed") -> Iterator[Evidence]:
    yield seen(end, commit.committed, commit.label)
    yield seen("written", commit.written, commit.label)
    yield seen("opened", commit.opened, commit.label, BEFORE_INSTALL if commit.opened is None else "")


RULE = Rule(
    slug="split-unit-of-work",
    severity="advice",
    summary="One unit of work committed its writes in two sessions, so that it was not atomic.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(SplitCommit,),
    check=check,
    safe_point="after the second session has closed",
)
