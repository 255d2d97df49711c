"""Sessions that are lent again: by a registry that keeps them, or by a provider that is entered once more."""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
from collections.abc import Callable
from types import AsyncGeneratorType, CodeType, GeneratorType
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import scoped_session

from ..border import settle
from ..frames import callsite
from ..record.key import KEY
from ..record.life import SessionRecord
from ..units.scope import current_unit

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message
_LOOKS = 20  # at a provider: from then on it is known what it does
_lends: dict[CodeType, tuple[int, bool]] = {}  # by the provider's code: how often it was looked at, and what was seen


def patch_ask(tracker: Tracker) -> Callable[[Any], Any]:
    """``ScopedRegistry.__call__``: whoever asks a registry anew begins a new scope, whatever ended before.

    Private: the public ways are ``registry()`` and each of the methods that a registry hands on.
    """

    def make(original: Any) -> Any:
        def __call__(self: Any) -> Any:  # noqa: N807
            try:
                session = original(self)
                try:
                    frame = sys._getframe(1)
                    record = _record_of(session)
                    if record is not None and (
                        record.began is None
                        or (record.unit is not None and record.unit.ended)
                        or (frame.f_code.co_name == "__call__" and _asks(frame.f_code))
                    ):
                        taken(record, callsite.raw(frame))
                except Exception:
                    tracker.failed("ScopedRegistry.__call__")
                return session
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "ScopedRegistry.__call__")
                if late is None:
                    raise
                return late(self)

        return __call__

    return make


@functools.lru_cache(16)
def _asks(code: CodeType) -> bool:
    """Whether it is the function by which a program takes a registry's session, and not a method of it."""
    functions: list[Any] = [scoped_session.__call__]
    asyncio = sys.modules.get("sqlalchemy.ext.asyncio")
    registry = getattr(asyncio, "async_scoped_session", None)  # not without greenlet, whose lack leaves half a module
    if registry is not None:
        functions.append(registry.__call__)
    return code in {getattr(function, "__code__", None) for function in functions}


def _record_of(session: Session) -> SessionRecord | None:
    """The record of what a registry holds, which need not be a session."""
    record = getattr(session, KEY, None)
    if record is None:
        record = getattr(getattr(session, "sync_session", None), KEY, None)
    return record if isinstance(record, SessionRecord) else None


def taken(record: SessionRecord, place: callsite.Raw) -> None:
    """A registry's session was asked for: it belongs to who asked, and to the unit that is under way."""
    record.taken = place
    if record.closed_how is not None:
        record.closed_scope = "hand"
    if record.unit is not None and record.unit.ended:
        record.unit = unit = current_unit()
        if unit is not None:
            unit.opened(record)


# -- providers ----------------------------------------------------------------------------------------


def lent_again(record: SessionRecord, session: Session) -> bool:
    """Whether the provider whose end closed a session has been entered again, and hands out the session now.

    Nothing tells of that when it happens: what is alive is searched, and only where a finding depends on it.
    """
    if record.closed_scope == "generator" and record.closer is not None:
        return _entered(record.closer)
    return record.closed_scope == "with" and _is_in_closing(session)


def _entered(provider: CodeType) -> bool:
    looks, lends = _lends.get(provider, (0, False))
    if looks < _LOOKS:
        lends = any(_waits_in(thing, provider) for thing in gc.get_objects() if type(thing) in _GENERATORS)
        _lends[provider] = (looks + 1, lends)
    return lends


_GENERATORS = frozenset({GeneratorType, AsyncGeneratorType})


def _waits_in(generator: Any, provider: CodeType) -> bool:
    if type(generator) is GeneratorType:
        return generator.gi_code is provider and generator.gi_frame is not None and generator.gi_suspended
    return generator.ag_code is provider and generator.ag_frame is not None and generator.ag_frame.f_lasti > 0


def _is_in_closing(session: Session) -> bool:
    """Whether a ``with closing(session)`` block is open."""
    for thing in gc.get_referrers(session):
        if type(thing) is contextlib.closing or (type(thing) is dict and thing.get("thing") is session):
            return True
    return False
