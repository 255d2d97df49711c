"""Evidence from marks, records and ownership; shared by the rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from inspect import CO_ASYNC_GENERATOR
from typing import TYPE_CHECKING

from ..frames.callsite import is_user, looked_at
from ..model import Evidence, Mark, Ownership, Site
from .sql import summary

if TYPE_CHECKING:
    from types import CodeType

    from .life import Known, SessionRecord
    from .parts import Holder

BEFORE_INSTALL = "opened before sessionwatch was installed"
FORGOTTEN = "the session's record is no longer kept"


def seen(label: str, mark: Mark | None, session: str | None = None, note: str = "") -> Evidence:
    """Evidence from a mark; says so where the place is missing."""
    if mark is None:
        return Evidence(label, None, session=session, note=note or "place unknown")
    site = mark.site.resolve() if mark.site else None
    return Evidence(label, site, mark.thread, mark.task, session, note if site or note else "place unknown")


def opened(record: Known) -> Evidence:
    """Where a session was made."""
    if record.opened is None:
        return Evidence("opened", None, session=record.label, note=BEFORE_INSTALL)
    return seen("opened", record.opened, record.label)


def taken(record: SessionRecord) -> Iterator[Evidence]:
    """Who took a registry's session last, if that was not where it was made."""
    last = looked_at(record.taken) if record.taken is not None else None
    if last is not None and (record.opened is None or last.site != record.opened.site):
        yield seen("taken", last, record.label, "from its registry")


def executed(record: SessionRecord) -> list[Evidence]:
    """The session's last statement."""
    if record.last is None:
        return []
    others = f", the last of {counted(record.statements, 'statement')}" if record.statements > 1 else ""
    note = f"{summary(record.last)}{others}"
    return [Evidence("executed", record.last_site.resolve() if record.last_site else None, note=note)]


def holds(holder: Holder) -> Evidence:
    """What the thread or task that began a transaction does at this moment."""
    who = "task" if holder.began.task else "thread"
    if holder.gone:
        name = holder.began.task or holder.began.thread
        return Evidence("holds", None, note=f"{who} {name}, which began it, has ended")
    if holder.now is None:
        return Evidence("holds", None, note=f"the {who} that began it runs no code of the program now")
    doing = f"where the {who} that began it is now"
    if holder.executing:
        doing = "is in a statement now"
    elif holder.elsewhere:
        doing = f"waits here now, in {holder.elsewhere}"
    elif holder.related:
        doing = "waits or works here now"
    return Evidence("holds", holder.now, holder.began.thread, holder.began.task, holder.record.label, doing)


def live_on(generator: CodeType) -> str:
    """The fix where a generator that had yielded the session was ended."""
    within = "stay inside its `async for`" if generator.co_flags & CO_ASYNC_GENERATOR else "yield from it"
    return f"let the generator live as long as the session is used: {within}, or use it as a context manager"


def held(holder: Holder) -> list[Evidence]:
    """The story of an open transaction: now, its last statement, its begin, the session's opening."""
    record = holder.record
    began = seen("began", holder.began, note=f"{holder.seconds:.1f} s ago")
    return [holds(holder), *executed(record), began, opened(record)]


def history(owner: Ownership | None, unknown: str = "detached") -> list[Evidence]:
    """Detached, expired, loaded, opened: what is known of an instance, newest first.

    ``unknown`` is the label of the one row where no session is known.
    """
    if owner is None:
        return [Evidence(unknown, None, note="no session is known to have held it")]
    if owner.missing and owner.session is None:
        return [Evidence(unknown, None, note=owner.missing)]
    rows = []
    if owner.expunged is not None:
        rows.append(Evidence("detached", owner.expunged, session=owner.session, note="expunged here"))
    elif owner.closed is not None or owner.closed_how:
        rows.append(_closing(owner))
    if owner.expired_how:
        rows.append(Evidence("expired", owner.expired, session=owner.session, note=owner.expired_how))
    if owner.loaded is not None:
        rows.append(Evidence("loaded", owner.loaded))
    note = "" if owner.opened else owner.missing or BEFORE_INSTALL
    rows.append(Evidence("opened", owner.opened, owner.thread, owner.task, owner.session, note))
    return rows


def _closing(owner: Ownership) -> Evidence:
    if owner.closed is None:
        note = "its session was collected unclosed" if owner.closed_how == "collected" else "place unknown"
        return Evidence("detached", None, session=owner.session, note=note)
    note = f"{owner.closed_how} here"
    return Evidence("detached", owner.closed, owner.closed_thread, owner.closed_task, owner.session, note)


def primary(mark: Mark | None, *others: Site | None) -> Site | None:
    """The mark's place if it is the user's own code, else the first of ``others`` that is known."""
    if mark is not None and is_user(mark.site) and mark.site is not None:
        return mark.site.resolve()
    for site in others:
        if site is not None:
            return site
    return mark.site.resolve() if mark is not None and mark.site is not None else None


def session_json(record: Known) -> dict[str, object]:
    """The session of a finding, in the form that `Finding.as_json` writes."""

    def place(mark: Mark | None) -> dict[str, object] | None:
        site = mark.site.resolve() if mark is not None and mark.site is not None else None
        return {"path": site.shown_path, "line": site.line, "function": site.function} if site else None

    return {
        "id": record.label,
        "opened": place(record.opened),
        "closed": place(record.closed),
        "duration_s": round(record.duration(), 6),
        "statements": record.statements,
    }


def session_of(owner: Ownership | None) -> dict[str, object] | None:
    """The same from an instance's ownership."""
    if owner is None or owner.session is None:
        return None

    def place(site: Site | None) -> dict[str, object] | None:
        return {"path": site.shown_path, "line": site.line, "function": site.function} if site else None

    return {
        "id": owner.session,
        "opened": place(owner.opened),
        "closed": place(owner.closed),
        "duration_s": owner.duration,
        "statements": owner.statements,
    }


def counted(count: int | None, name: str) -> str:
    """``1 Order object``, ``2 Order objects``, ``Order objects`` where the number is unknown."""
    plural = name if count == 1 else f"{name}s"
    return plural if count is None else f"{count} {plural}"


def listed(parts: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *head, last = list(parts) or [""]
    return f"{', '.join(head)} and {last}" if head else last
