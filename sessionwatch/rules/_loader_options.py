"""Shared by the rules of reads that need the database: what was missing, and the loader option that brings it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..record.parts import Step

if TYPE_CHECKING:
    from ..model import Ownership
    from ..record.events import UnloadedRead

WHAT = {
    "relationship": "a lazy load",
    "collection": "a lazy load",
    "deferred": "loading a deferred column",
    "expired": "refreshing an expired value",
    "unloaded": "loading the column",
    "inherited": "loading a subclass's column",
}
_OPTIONS = {"relationship": "joinedload", "collection": "selectinload", "deferred": "undefer", "unloaded": "undefer"}


def needs_option(event: UnloadedRead) -> bool:
    """Whether a loader option would have brought it; else it was there once, and something expired it."""
    return event.kind != "expired"


def expired_by_commit(owner: Ownership | None) -> bool:
    """Whether what was loaded before was emptied by a commit."""
    return owner is not None and owner.expired_how == "by commit()"


def option(event: UnloadedRead) -> str:
    """``.options(…)``, or ``options=[…]``, for the query that loaded the instance, or the one that it goes back to."""
    chain = _chain(event)
    return (f"options=[{chain}]" if event.by_get else f".options({chain})") if chain else ""


def query(event: UnloadedRead) -> str:
    """What the option is given to."""
    return "get()" if event.by_get else "the query"


def _chain(event: UnloadedRead) -> str:
    polymorphic = f"selectin_polymorphic({event.base}, [{event.model}])" if event.base else ""
    if event.kind == "inherited":
        return polymorphic
    steps = event.path or (Step(event.model, event.attribute, event.kind),)
    if event.recursive:
        step = steps[-1]
        chain = f"selectinload({step.model}.{step.attribute}, recursion_depth=-1)"
    else:
        chain = ".".join(f"{_OPTIONS[step.kind]}({step.model}.{step.attribute})" for step in steps)
    if polymorphic and len(steps) == 1:
        return f"{polymorphic}, {chain}"
    return chain
