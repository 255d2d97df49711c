"""``boundary``: an instance of a mapped class that crosses a boundary where only plain data may go."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Evidence, Finding, Options, Rule
from ..record.events import Crossed
from ..record.story import history, listed, primary, seen, session_of

PAGE = """
## What it reports
An instance of a mapped class went into or came out of a function that is marked `@sessionwatch.boundary`,
or was part of a value that was given to `sessionwatch.assert_no_instances()`. Containers, named tuples,
result rows, dataclasses, and models of pydantic, attrs and msgspec are searched; the finding says where in
the value the instance is, and whether it is detached.

## Why it matters
Behind a boundary (a service, a task queue, a cache, another thread) nobody knows the session. The instance
arrives detached, or is read while its session belongs to somebody else.

## Bad
```python
import sessionwatch

@sessionwatch.boundary
def first_order():
    with Session(engine) as session:
        return {"order": session.scalars(select(Order)).first()}

first_order()
```

## Good
```python
import dataclasses
import sessionwatch

@dataclasses.dataclass
class OrderDTO:
    id: int
    status: str

@sessionwatch.boundary
def first_order():
    with Session(engine) as session:
        order = session.scalars(select(Order)).one()
        return {"order": sessionwatch.dto.extract(order, OrderDTO)}

first_order()
```

## When to allow
While a code base is being changed over: allow the calls that still hand instances on, each with a reason.
A message to a task queue is searched where it is made: `assert_no_instances(arguments)` before
`task.apply_async(arguments)`.
"""

SHOWN = 5  # instances that are listed
STATES = {"detached": "detached", "transient": "new", "pending": "new"}


def check(event: Crossed, settings: Options) -> Iterator[Finding]:
    """One finding a call that instances cross, however many."""
    path, model, state = event.places[0]
    owner = event.ownership
    yield Finding(
        rule="boundary",
        severity="fault",
        subject=f"{event.function}: {model}" if event.function else model,
        message=f"{_what(event)} {_crossed(event)}: {path}{_more(event)}",
        site=primary(event.mark, event.declared),
        evidence=tuple(_evidence(event, state)),
        fix=_fix(event),
        session=session_of(owner),
        unit=owner.unit if owner else None,
    )


def _what(event: Crossed) -> str:
    if len(event.places) == 1:
        _, model, state = event.places[0]
        return f"1 {STATES.get(state, 'live')} {model} instance"
    models: dict[str, int] = {}
    for _, model, _ in event.places:
        models[model] = models.get(model, 0) + 1
    return listed(f"{count} {model} instance{'s' if count > 1 else ''}" for model, count in models.items())


def _crossed(event: Crossed) -> str:
    was = "was" if len(event.places) == 1 else "were"
    if event.how == "argument":
        return f"{was} given to {event.function}(), which is a boundary"
    if event.how == "result":
        return f"{was} returned by {event.function}(), which is a boundary"
    return f"{was} in a value that may hold none"


def _more(event: Crossed) -> str:
    others = len(event.places) - 1
    return f" and {others} more" if others else ""


def _evidence(event: Crossed, state: str) -> Iterator[Evidence]:
    yield seen("crossed", event.mark, note=f"{event.places[0][0]} is {STATES.get(state, 'live')}")
    for path, model, other in event.places[1:SHOWN]:
        yield Evidence("and", None, note=f"{path}, a {STATES.get(other, 'live')} {model}")
    if event.declared is not None:
        yield Evidence("declared", event.declared)
    if event.ownership is not None:
        yield from history(event.ownership)


def _fix(event: Crossed) -> str:
    model = event.places[0][1]
    step = f"sessionwatch.dto.extract(instance, {model}DTO)"
    if event.how == "argument":
        return f"give it plain data, made while the session is open: {step}"
    if event.how == "result":
        return f"return plain data, made while the session is open: {step}"
    return f"put plain data there, made while the session is open: {step}"


RULE = Rule(
    slug="boundary",
    severity="fault",
    summary="An instance of a mapped class crossed a boundary where only plain data may go.",
    page=PAGE,
    on_in=frozenset({"log", "strict"}),
    events=(Crossed,),
    check=check,
    safe_point="arguments: before the call; a result: after the function has ended",
)
