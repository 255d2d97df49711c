"""``long-session``: a transaction that stays open for too long, seen while it is open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..model import Finding, Level, Limits, Options, Rule, Setting
from ..record.events import TransactionOverdue
from ..record.fixes import awaited, session_name
from ..record.story import held, primary, session_json

PAGE = """
## What it reports
A transaction is open for longer than `long-session.seconds` (30), or nothing was done in it for
`long-session.idle` (5) seconds. It is reported while it is still open, with the place where the thread or
task that began it is at that moment, and its last statement. A line of the log says how long it took once
it has ended (level INFO), and so does the finding from then on. A streamed result that still moves is no
reason, however long it takes; nor is a session without a transaction, or in AUTOCOMMIT.

## Why it matters
An open transaction keeps its connection from everybody else, its locks from other writers, and on
PostgreSQL dead rows from being cleaned up. A slow service that is called inside of it makes all of the
application slow.

## Bad
```python
with Session(engine) as session:
    order = session.get(Order, 1)
    sleep(40)  # a payment service that answers slowly
    order.status = "paid"
    session.commit()
```

## Good
```python
sleep(40)  # a payment service that answers slowly
with Session(engine) as session:
    order = session.get(Order, 1)
    order.status = "paid"
    session.commit()
```

## When to allow
A nightly job that has the database for itself. An `allow("long-session", reason=...)` counts where the
session is opened or the transaction begins inside of it.
"""


def check(event: TransactionOverdue, settings: Options) -> Iterator[Finding]:
    """One finding a transaction."""
    holder = event.holder
    record = holder.record
    opened_at = record.opened.site.resolve() if record.opened is not None and record.opened.site is not None else None
    site = primary(holder.began, opened_at)
    commit = f"{awaited(record)}{session_name(record, holder.began)}.commit()"
    state = "idle for" if event.why == "idle" else "open for"
    yield Finding(
        rule="long-session",
        severity="advice",
        subject=(site.function if site else None) or "session",
        message=f"a transaction was {state} more than {event.limit:g} s, and was still open",
        site=site,
        evidence=tuple(held(holder)),
        fix=f"end the transaction before the slow part, `{commit}`, and begin another one after it",
        session=session_json(record),
        unit=record.unit.name if record.unit else None,
    )


def _limits(limits: Limits, settings: Options, level: Level) -> Limits:
    return replace(limits, open=settings.number("seconds"), idle=settings.number("idle"))


RULE = Rule(
    slug="long-session",
    severity="advice",
    summary="A transaction was open for too long, or nothing was done in it for too long.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(TransactionOverdue,),
    check=check,
    settings={
        "seconds": Setting(30.0, "how long a transaction may be open, in seconds", least=0),
        "idle": Setting(5.0, "how long nothing may be done in it, in seconds", least=0),
    },
    timed=True,
    safe_point="in the test's report",
    limits=_limits,
)
