"""``n-plus-one``: one attribute loaded by a query of its own for one parent after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..model import Finding, Level, Limits, Options, Ownership, Rule, Setting
from ..record.events import RepeatedGet, RepeatedLoad
from ..record.fixes import awaited, session_name
from ..record.story import history, opened, primary, seen, session_json, session_of
from ._loader_options import expired_by_commit, needs_option, option, query

PAGE = """
## What it reports
One relationship, or one deferred or expired column, was loaded by a query of its own for one parent after
another, from one line (also a `lazy="dynamic"` or `write_only` collection):
for 5 parents that one query had loaded, or for 2 where the rule is set to `raise`
(setting `n-plus-one.threshold`). So does a loop of `session.get()` within one transaction. The finding is made
when the number is reached; its count goes on to grow with each further query.

## Why it matters
N rows cost N + 1 queries. With ten rows nobody notices; with ten thousand the page does not come.

## Bad
```python
with Session(engine) as session:
    session.add_all([Order(items=[Item(name="bolt")]) for _ in range(5)])
    session.commit()
    for order in session.scalars(select(Order)).all():
        print(len(order.items))
```

## Good
```python
with Session(engine) as session:
    session.add_all([Order(items=[Item(name="bolt")]) for _ in range(5)])
    session.commit()
    for order in session.scalars(select(Order).options(selectinload(Order.items))).all():
        print(len(order.items))
```

## When to allow
Where the number of parents is known to stay small, or most parents need no load because the identity map
answers.
"""


def check(event: RepeatedLoad | RepeatedGet, settings: Options) -> Iterator[Finding]:
    """One finding a line and attribute that reaches the threshold."""
    yield _got(event) if isinstance(event, RepeatedGet) else _loaded(event)


def _loaded(event: RepeatedLoad) -> Finding:
    owner = event.ownership
    subject = f"{event.model}.{event.attribute}"
    done = "loaded" if needs_option(event) else "refreshed"
    return Finding(
        rule="n-plus-one",
        severity="advice",
        subject=subject,
        message=f"{subject} was {done} for one {event.model} at a time, by a query each",
        site=primary(event.mark, owner.loaded if owner else None, owner.opened if owner else None),
        evidence=(seen("touched", event.mark), *history(owner, "opened")),
        fix=_fix(event, owner),
        session=session_of(owner),
        unit=owner.unit if owner else None,
        count=event.count,
    )


def _fix(event: RepeatedLoad, owner: Ownership | None) -> str:
    if not needs_option(event):
        if expired_by_commit(owner):
            return "make the sessions with expire_on_commit=False"
        if owner is not None and (owner.expired_how or "").startswith("by flush()"):
            return f'let the flush fetch it: __mapper_args__ = {{"eager_defaults": True}} on {event.model}'
        return "run the query again: .execution_options(populate_existing=True) refreshes all of them at once"
    call = f"{awaited(event.record)}{session_name(event.record, event.mark)}"
    if event.instead:
        return f"ask once for all of them: {call}.execute({event.instead})"
    if not event.queried:  # the session made them: what helps is to read them back at once
        call += f".scalars(select({event.model}){option(event)}, execution_options="
        call += '{"populate_existing": True})'
        rows = f"({call})" if awaited(event.record) else call
        return f"load them at once before the loop, narrowed to them:\n{rows}.all()"
    asked = query(event)
    emptied = ",\nand make the sessions with expire_on_commit=False" if expired_by_commit(owner) else ""
    return f"load it with {asked}: {option(event)}{emptied}"


def _got(event: RepeatedGet) -> Finding:
    model, record = event.model, event.record
    return Finding(
        rule="n-plus-one",
        severity="advice",
        subject=model,
        message=f"{model} was fetched by get() one key at a time, by a query each",
        site=primary(event.mark),
        evidence=(seen("touched", event.mark), opened(record)),
        fix=f"ask once for all keys: {awaited(record)}{session_name(record, event.mark)}"
        f".scalars(select({model}).where({model}.{event.key}.in_(keys)))",
        session=session_json(record),
        unit=record.unit.name if record.unit else None,
        count=event.count,
    )


def _limits(limits: Limits, settings: Options, level: Level) -> Limits:
    chosen = int(settings.number("threshold"))
    return replace(limits, loads=chosen if chosen > 0 else 2 if level == "raise" else 5)


RULE = Rule(
    slug="n-plus-one",
    severity="advice",
    summary="One attribute was loaded by a query of its own for one parent after another.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(RepeatedLoad, RepeatedGet),
    check=check,
    settings={
        "threshold": Setting(
            0, "parents that are loaded one at a time; 0 means 5, or 2 where the rule is set to raise", least=0
        )
    },
    changes=("loaded",),
    safe_point="before the load that makes them too many",
    limits=_limits,
)
