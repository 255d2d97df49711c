"""Who calls where the stack alone does not tell: who leaves a session and what scope ends, who runs a statement."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session, scoped_session

from ..frames import callsite
from ..frames.callsite import Caller, Wanted, is_user
from ..frames.handed import awaited_at
from ..model import RawSite
from ..record.life import REGISTRY, WITH, recognised
from .reading import session_of

if TYPE_CHECKING:
    from ..record.life import SessionRecord

_SCOPES = (WITH, WITH, REGISTRY, REGISTRY)  # what the codes of `scope_codes` stand for


def scope_codes(registry: Callable[..., Any] | None = None) -> Wanted:
    """The functions that end a session's scope, as they are found on the stack above ``close()``.

    ``registry``: the one by which an async registry removes its session.
    """
    functions = (Session.__exit__, contextlib.closing.__exit__, scoped_session.remove, registry)
    first, second, third, fourth = (getattr(function, "__code__", None) for function in functions)
    return first, second, third, fourth


class Exit:
    """Who leaves a session, and with which exception: taken before close() moves to another task."""

    __slots__ = ("around", "caller", "error", "scope")

    def __init__(self, caller: Caller, error: BaseException | None, scope: str | None, around: Any = ()) -> None:
        self.caller = caller
        self.error = error
        self.scope = scope
        self.around: tuple[RawSite, ...] = around  # the frames around that one


def scope_of(caller: Caller, record: SessionRecord) -> str:
    """with, registry, generator or hand: how the session came to be closed."""
    _, _, generator, seen = caller
    if seen >= 0:
        return _SCOPES[seen]
    return "generator" if generator is not None and generator is record.opener else "hand"


def on_its_way(error: BaseException | None, record: SessionRecord) -> bool:
    """Whether an exception is leaving the session's block.

    Not one that was being handled when the session was opened, and not the GeneratorExit of a
    generator that was broken off: that is how writes get lost.
    """
    return is_leaving(error, record) and not isinstance(error, GeneratorExit)


def is_leaving(error: BaseException | None, record: SessionRecord) -> bool:
    """Whether an exception arose, or a generator was broken off, since the session was opened."""
    return error is not None and recognised(error) not in record.errors_at_open


def handed(session: Session, who: Caller) -> Caller:
    """Who closes the session where its method was handed to a worker thread: who awaits that."""
    code = who[0][0]
    found = awaited_at(session) if code is None or (who[1] and not is_user(RawSite(code, who[0][1]))) else None
    if found is None:
        return who
    (code, lasti), task = found
    return (code, lasti, who[0][2], task), False, None, who[3]


def leaver(codes: Wanted, record: SessionRecord, frame: FrameType, session: Any = None) -> Caller:
    """Who closes the session, and the end of what scope that is."""
    exit_ = record.exiting
    if exit_ is not None:
        who: Caller = exit_.caller
        record.closed_scope = exit_.scope or scope_of(who, record)
    else:
        who = callsite.caller(frame, codes)
        place, in_framework, generator, seen = who
        if in_framework or place[0] is None:
            who = handed(session, who)
            record.closed_scope = scope_of(who, record)
        elif seen >= 0:  # these two are the usual ones
            record.closed_scope = _SCOPES[seen]
        else:
            record.closed_scope = "hand" if generator is None else scope_of(who, record)
    if who[2] is not None:
        record.closer = who[2]
    return who


def ran_at(record: SessionRecord, place: RawSite | None) -> RawSite | None:
    """Where a statement was run, where the stack does not tell: by a block's end, or by a method in a worker thread."""
    if callsite.is_user(place):
        return place
    if record.exiting is not None:
        code, lasti, _, _ = record.exiting.caller[0]
        return RawSite(code, lasti) if code is not None else place
    session = session_of(record)
    found = awaited_at(session) if session is not None else None
    return found[0] if found is not None else place
