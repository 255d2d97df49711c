"""``late-commit``: a commit that failed after the client had been answered."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Evidence, Finding, Options, Rule, Site
from ..record.events import LateCommit
from ..record.fixes import Provider, session_name
from ..record.parts import Write
from ..record.story import counted, listed, opened, primary, seen, session_json

PAGE = """
## What it reports
A request was answered with a status below 400, and the response had been sent when the commit of what the request
had written failed. Responses are known for ASGI and WSGI applications. A response that broke off with the error, a
failed commit that was repeated with success, and a session whose first write came after the response are not reported.

## Why it matters
The client has its 201 and believes what is not stored; the error is in a log at best. It comes of code that runs
after the response: the exit code of a FastAPI dependency, a WSGI response's `close()`, a streamed body.

## Bad
```python
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

app = FastAPI()

def get_session():
    with Session(engine) as session:
        yield session
        session.commit()

@app.post("/orders/{id}", status_code=201)
def create(id: int, session=Depends(get_session)):
    session.add(Order(id=id))

TestClient(app, raise_server_exceptions=False).post("/orders/1")
```

## Good
```python
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

app = FastAPI()

def get_session():
    with Session(engine) as session:
        yield session
        session.commit()

@app.post("/orders/{id}", status_code=201)
def create(id: int, session=Depends(get_session, scope="function")):
    session.add(Order(id=id))

TestClient(app, raise_server_exceptions=False).post("/orders/1")
```

## When to allow
Where the response promises nothing, as a 202 whose result is asked for later.
"""

FIX = {
    "sync": "commit before the response: session.commit() in the handler, before it returns",
    "async": "commit before the response: await session.commit() in the handler, before it returns",
}
DEPENDENCY = '\nin FastAPI, let the dependency end before the response: Depends({provider}, scope="function")'


def check(event: LateCommit, settings: Options) -> Iterator[Finding]:
    """One finding for each session whose commit failed."""
    record = event.record
    name = record.unit.name if record.unit is not None else "the program"
    what = listed(_counted(write.count, write.subject, write.what) for write in event.writes)
    alone = len(event.writes) == 1 and event.writes[0].count == 1
    yield Finding(
        rule="late-commit",
        severity="fault",
        subject=event.writes[-1].subject,
        message=f"{name} answered {event.status}, and then its commit failed with {event.kind}: "
        f"{what} {'is' if alone else 'are'} not stored",
        site=_place(event),
        evidence=tuple(_evidence(event)),
        fix=FIX[record.kind].replace("session.", f"{_name(event)}.") + _dependency(event),
        session=session_json(record),
        unit=name,
    )


def _counted(count: int | None, subject: str, what: str) -> str:
    return f"{counted(count, 'row')} of {subject}" if what == "row" else counted(count, f"{subject} object")


def _place(event: LateCommit) -> Site | None:
    """The call that commits; inside a framework the last write."""
    writes = [write.mark for write in reversed(event.writes) if write.mark is not None]
    if event.in_framework and writes:
        return primary(writes[0])
    return primary(event.committed)


def _name(event: LateCommit) -> str:
    """What the handler calls the session, which need not be what the function that commits calls it."""
    return session_name(event.record, *(write.mark for write in reversed(event.writes)))


def _dependency(event: LateCommit) -> str:
    """FastAPI's own way, where the generator that commits is what opened the session."""
    opening, committed = event.record.opened, event.committed
    if (
        opening is None
        or opening.site is None
        or committed.site is None
        or opening.site.code is not committed.site.code
        or Provider(opening).how != "yield"
    ):
        return ""
    return DEPENDENCY.format(provider=committed.site.code.co_name)


def _evidence(event: LateCommit) -> Iterator[Evidence]:
    yield seen("committed", event.committed, event.record.label, note=event.kind)
    for write in reversed(event.writes):
        if write.mark is not None:
            yield seen("written", write.mark, note=_counted(write.count, write.subject, write.what))
    yield opened(event.record)


RULE = Rule(
    slug="late-commit",
    severity="fault",
    summary="A response had been sent, and then the commit of what the request had written failed.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(LateCommit,),
    parts=(Write,),
    loses_data=True,
    check=check,
    safe_point="at the end of the request, which fails the test that made it",
)
