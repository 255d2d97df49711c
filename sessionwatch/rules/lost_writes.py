"""``lost-writes``: a session ended with writes that were neither committed nor rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..frames.callsite import is_user
from ..model import Evidence, Finding, Mark, Options, Rule, Setting, Site
from ..record.events import ConnectionEnded, SessionEnded
from ..record.fixes import Provider, awaited, given_name, opening, registry, session_name
from ..record.parts import Write
from ..record.story import counted, listed, opened, seen, session_json, taken

if TYPE_CHECKING:
    from ..record.life import SessionRecord

PAGE = """
## What it reports
A session was closed, reset, invalidated or collected, or was still open when the program ended, while it
held new, changed or deleted objects, or rows written by a flush or a statement, that were neither
committed nor explicitly rolled back. The database has discarded them.

So is a Core connection (`engine.connect()`) that wrote and was closed, collected or left open at exit without a commit
or rollback. What was written inside of `engine.begin()` or `connection.begin()` is not reported, whoever called that.

A session that joined a transaction which somebody else began is left alone, as in the recipe for tests: what
becomes of it is decided outside of the session.

## Why it matters
Everything looked right: the objects had primary keys, the API answered 201. The rows are gone, and
nothing said so.

## Bad
```python
session = Session(engine)
session.add(Order(status="new"))
session.flush()
session.close()
```

## Good
```python
with Session(engine) as session, session.begin():
    session.add(Order(status="new"))
```

## When to allow
A dry run that is meant to leave no trace. Better: say so in the program with `session.rollback()`, which
is never reported.
"""

HOW = {
    "closed": "the session was closed without a commit",
    "reset": "the session was reset without a commit",
    "invalidated": "the session was invalidated without a commit",
    "collected": "the session was dropped and collected without a commit",
    "exit": "the program ended without a commit",
    "expunged": "expunged before a flush, and in no session since",
}
CONNECTION = {
    "closed": "the connection was closed without a commit",
    "collected": "the connection was dropped and collected without a commit",
    "exit": "the program ended without a commit",
}

FIX = {
    "sync": "commit before the session ends: session.commit(), or "
    "`with Session(engine) as session, session.begin():`;\n"
    "to discard on purpose: session.rollback()",
    "async": "commit before the session ends: await session.commit(), or\n"
    "`async with AsyncSession(engine) as session, session.begin():`;\n"
    "to discard on purpose: await session.rollback()",
}


CONNECTION_FIX = {
    "sync": "commit before the block ends: connection.commit(), or `with engine.begin() as connection:`;\n"
    "to discard on purpose: connection.rollback()",
    "async": "commit before the block ends: await connection.commit(), or\n"
    "`async with engine.begin() as connection:`;\n"
    "to discard on purpose: await connection.rollback()",
}


def check(event: SessionEnded | ConnectionEnded, settings: Options) -> Iterator[Finding]:
    """One finding for each session or Core connection that ended with uncommitted writes."""
    if isinstance(event, ConnectionEnded):
        yield from _of_connection(event, [write for write in event.writes if not _ignored(write, settings)])
        return
    writes = [write for write in event.writes if not _ignored(write, settings)]
    how = f"{event.scope} ended without a commit" if event.how == "scope" else HOW.get(event.how)
    if how is None or not writes:
        return
    record = event.record
    yield Finding(
        rule="lost-writes",
        severity="fault",
        subject=listed(dict.fromkeys(write.subject for write in writes)),
        message=f"{_what(writes)}, but {how}{_answered(record)}",
        site=_place(event, writes),
        evidence=tuple(_evidence(event, writes)),
        fix=_fix(event, writes),
        session=session_json(record),
        unit=record.unit.name if record.unit else None,
    )


def _fix(event: SessionEnded, writes: list[Write]) -> str:
    record = event.record
    if event.how == "expunged":
        return f"flush it before: {awaited(record)}{session_name(record, event.ended)}.flush(), or add it again"
    if event.by_zope:
        return (
            "tell zope.sqlalchemy of what it does not see: mark_changed(session), after the statement;\n"
            "to discard on purpose: transaction.abort()"
        )
    call, name = awaited(record), session_name(record, *(write.mark for write in reversed(writes)))
    if registry(record) is not None or "." in name:  # somebody else's to open: no block of its own can replace it
        return f"commit before the session ends: {call}{name}.commit();\nto discard on purpose: {call}{name}.rollback()"
    made = "AsyncSession(engine)" if record.kind == "async" else "Session(engine)"
    given = given_name(record) or (name if name.isidentifier() else "session")
    marks = (event.ended, *(write.mark for write in reversed(writes)))
    provider = Provider(record.opened)
    call_in = provider.call_in(*(mark.site for mark in marks if mark is not None)) if provider.how == "return" else None
    return (
        FIX[record.kind]
        .replace(made, call_in or opening(record, made))
        .replace("as session, session.begin()", f"as {given}, {given}.begin()")
        .replace("session.commit()", f"{name}.commit()")
        .replace("session.rollback()", f"{name}.rollback()")
    )


def _answered(record: SessionRecord) -> str:
    """What the client was told before: it believes what is not stored."""
    if not getattr(record, "promised", False) or record.unit is None:
        return ""
    return f", after {record.unit.name} had answered {record.unit.answer}"


def _of_connection(event: ConnectionEnded, writes: list[Write]) -> Iterator[Finding]:
    if not writes:
        return
    ended = [seen("closed", event.ended)] if event.ended is not None else []
    yield Finding(
        rule="lost-writes",
        severity="fault",
        subject=listed(dict.fromkeys(write.subject for write in writes)),
        message=f"{_what(writes)}, but {CONNECTION[event.how]}",
        site=_place_of(event.ended, event.in_framework, writes),
        evidence=(*ended, *(seen("written", write.mark, note=_written(write)) for write in reversed(writes))),
        fix=CONNECTION_FIX[event.kind],
        session=None,
        unit=event.unit,
    )


def _ignored(write: Write, settings: Options) -> bool:
    return write.temporary and settings["temporary-tables"] == "ignore"


def _what(writes: list[Write]) -> str:
    """``2 Order objects were written``; what was never flushed keeps its own verb: ``1 Item object was added``."""
    writes = [write for kind in ("object", "row", "definition", "pending") for write in writes if write.what == kind]
    sent = [write for write in writes if write.what != "pending"]
    alike = len({write.verb for write in sent}) == 1
    own = alike or len({(write.what, write.subject) for write in sent}) < len(sent)  # inserted here, deleted there
    fates: dict[str, list[Write]] = {}
    for write in writes:
        fates.setdefault(write.verb if own or write.what == "pending" else "written", []).append(write)
    return listed(f"{listed(map(_counted, parts))} {_be(parts)} {verb}" for verb, parts in fates.items())


def _counted(write: Write) -> str:
    if write.what == "definition":
        return write.subject
    if write.what == "row":
        return f"{counted(write.count, 'row')} of {write.subject}"
    return counted(write.count, f"{write.subject} object")


def _be(parts: list[Write]) -> str:
    return "was" if len(parts) == 1 and (parts[0].count == 1 or parts[0].what == "definition") else "were"


def _place(event: SessionEnded, writes: list[Write]) -> Site | None:
    """The call that discards; the last write where that is inside a framework, or there is none."""
    return _place_of(event.ended, event.in_framework, writes, event.record.opened)


def _place_of(ended: Mark | None, in_framework: bool, writes: list[Write], opening: Mark | None = None) -> Site | None:
    if ended is not None and ended.site is not None and not in_framework and is_user(ended.site):
        return ended.site.resolve()
    for write in reversed(writes):
        if write.mark is not None and write.mark.site is not None and is_user(write.mark.site):
            return write.mark.site.resolve()
    for mark in (opening, ended):
        if mark is not None and mark.site is not None:
            return mark.site.resolve()
    return None


def _evidence(event: SessionEnded, writes: list[Write]) -> Iterator[Evidence]:
    record = event.record
    if event.ended is not None:
        yield seen(event.how, event.ended, record.label)
    elif event.how == "collected":
        yield Evidence("collected", None, session=record.label, note="dropped by the program, found by the collector")
    else:
        what = event.scope or "the program"
        yield Evidence("ended", None, session=record.label, note=f"{what} ended with the session open")
    for write in reversed(writes):
        label = write.verb if write.what == "pending" else "written"
        yield seen(label, write.mark, note=_written(write))
    if record.reused:  # where it was made is another scope's
        yield from taken(record)
    yield opened(record)


def _written(write: Write) -> str:
    return _counted(write) + (", never flushed" if write.what == "pending" else f" {write.verb}")


RULE = Rule(
    slug="lost-writes",
    severity="fault",
    summary="A session ended with writes that were neither committed nor rolled back.",
    page=PAGE,
    on_in=frozenset({"log", "strict", "telemetry"}),
    events=(SessionEnded, ConnectionEnded),
    parts=(Write,),
    loses_data=True,
    check=check,
    changes=("written", "added", "changed", "deleted"),
    safe_point="after the close, when the connection is back in its pool",
    settings={
        "temporary-tables": Setting("report", "whether writes to temporary tables are reported", ("report", "ignore")),
    },
)
