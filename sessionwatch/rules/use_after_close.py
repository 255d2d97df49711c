"""``use-after-close``: a session that works again after the scope that owned it ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..model import Evidence, Finding, Options, Rule, Setting, function_of
from ..record.events import SessionReused
from ..record.fixes import Provider, registry
from ..record.story import live_on, opened, primary, seen, session_json

if TYPE_CHECKING:
    from ..model import RawSite
    from ..record.life import SessionRecord

PAGE = """
## What it reports
A session did work again after its scope had ended: after its `with` block, after the generator that
yielded it had finished or was broken off (`for session in get_session(): return session`), after
`scoped_session.remove()`, after its unit of work. A session made with `close_resets_only=False` raises by
itself; its error gets the story as a note.

## Why it matters
The session silently begins a new transaction, on another connection, that nobody commits and nobody
closes. What was one transaction in the author's mind is two.

## Bad
```python
with Session(engine) as session:
    session.scalars(select(Order)).all()
session.scalars(select(Order)).all()
session.close()
```

## Good
```python
with Session(engine) as session:
    session.scalars(select(Order)).all()
    session.scalars(select(Order)).all()
```

## When to allow
Calling `session.close()` by hand and using the session again is documented as allowed, and is reported
only with the setting `use-after-close.after = "any"`.
"""

ENDED = {
    "with": "its with block had ended",
    "generator": "the generator that yielded it had ended",
    "registry": "its registry had removed it",
    "unit": "its unit of work had ended",
    "hand": "it had been closed",
}


def check(event: SessionReused, settings: Options) -> Iterator[Finding]:
    """One finding the first time that a closed session begins a transaction again."""
    record = event.record
    scope = record.closed_scope or "hand"
    if scope == "hand" and settings["after"] != "any" and event.error is None:
        return
    name = function_of(record.closer) if record.closer is not None else None
    ended = ENDED[scope]
    if scope == "generator" and name:
        ended = f"the generator {name}() that yielded it had ended"
    yield Finding(
        rule="use-after-close",
        severity="fault",
        subject=name or (_opener(record) or "session"),
        message=f"the session was used after {ended}",
        site=primary(event.used),
        evidence=tuple(_evidence(event, scope)),
        fix=_fix(record, scope, event.used.site if event.used is not None else None),
        session=session_json(record),
        unit=record.unit.name if record.unit else None,
    )


def _fix(record: SessionRecord, scope: str, used: RawSite | None) -> str:
    if _entered(record, scope) is not None:
        return f"keep the work inside the block of {function_of(record.closer)}(), or enter it again"
    if scope == "generator" and record.closer is not None:
        return live_on(record.closer)
    provider = Provider(record.opened) if scope == "with" else None
    if provider is not None and provider.how == "return":  # its block ends when it returns
        kind, block = ("async", "async with") if record.kind == "async" else ("", "with")
        return (
            f"yield it instead of returning it, decorate {provider.name}() with `@{kind}contextmanager`, and\n"
            f"`{block} {provider.called(used).removeprefix('await ')} as session:` where it is used"
        )
    asked = registry(record)
    if scope == "registry" and asked is not None:
        return f"take it from its registry again, {asked}(), or remove it after the last use"
    return "keep the work inside the block, or open a new session for it"


def _entered(record: SessionRecord, scope: str) -> RawSite | None:
    """Who entered the context manager that made the session and ended it."""
    return record.entered if scope == "generator" and record.closer is record.opener else None


def _opener(record: SessionRecord) -> str | None:
    mark = record.opened
    return mark.site.resolve().function if mark is not None and mark.site is not None else None


def _evidence(event: SessionReused, scope: str) -> Iterator[Evidence]:
    record = event.record
    yield seen("used", event.used, record.label)
    note = {"generator": "the generator ended", "with": "the with block ended"}.get(scope, "")
    yield seen("closed", record.closed, note=note)
    if record.consumer is not None:
        yield Evidence("obtained", record.consumer.resolve(), note="ran the generator")
    if (entered := _entered(record, scope)) is not None:
        yield Evidence("entered", entered.resolve(), note=f"entered {function_of(record.closer)}()")
    yield opened(record)


RULE = Rule(
    slug="use-after-close",
    severity="fault",
    summary="A session did work again after the scope that owned it had ended.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(SessionReused,),
    check=check,
    changes=("opened",),
    safe_point="before the session begins its new transaction",
    settings={"after": Setting("scope", "what counts as the end: its scope, or any close()", ("scope", "any"))},
)
