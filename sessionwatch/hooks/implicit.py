"""Reads that need the database under asyncio, outside of SQLAlchemy's greenlet: nothing could await it."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import MissingGreenlet, StatementError
from sqlalchemy.orm import InstanceState

from ..frames import callsite
from ..record.events import ImplicitRead
from .ownership import allowances, foreign
from .patch import become, patch_error
from .unloaded import facts

if TYPE_CHECKING:
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message


def patch_missing(tracker: Tracker, strict: type[MissingGreenlet]) -> Callable[[Any], Any]:
    """``MissingGreenlet.__init__``. ``strict``: the class that it turns into where the rule is set to ``raise``."""

    def refused(error: Any, frame: FrameType) -> None:
        state, key = _read_above(frame)
        if state is None or foreign(tracker, state):
            return
        event = ImplicitRead(**facts(tracker, state, key, frame), error=error)
        raised: Any = tracker.emit(event, allowances(tracker, state))
        if raised is not None:
            become(error, MissingGreenlet, strict, raised.finding)

    return patch_error(tracker, "MissingGreenlet", refused)


def patch_wrapped(tracker: Tracker, strict: type[StatementError]) -> Callable[[Any], Any]:
    """``StatementError.__init__``: where SQLAlchemy 2.1 wraps its error, the story moves to what a program catches."""

    def moved(error: Any, frame: FrameType) -> None:
        inner = error.orig
        if isinstance(inner, MissingGreenlet):
            for note in inner.__dict__.pop("__notes__", ()):
                error.add_note(note)
            become(error, StatementError, strict, getattr(inner, "finding", None))

    return patch_error(tracker, "StatementError", moved)


def _read_above(frame: FrameType | None) -> tuple[Any, str]:
    """The state and the attribute that the user's code read: the outermost attribute that SQLAlchemy was working on.

    (None, "") for database work that no read of an attribute caused.
    """
    found: tuple[Any, str] = None, ""
    while frame is not None:
        kind = callsite.kind_of(frame)
        if kind in (callsite.USER, callsite.STOP) or (kind == callsite.LIBRARY and found[0] is not None):
            break
        module = str(frame.f_globals.get("__name__", ""))
        if module == "sqlalchemy.orm.session" and found[0] is not None:
            found = None, ""  # a method of the session read it for itself
        elif module.startswith("sqlalchemy.orm."):
            state, key = frame.f_locals.get("state"), getattr(frame.f_locals.get("self"), "key", None)
            if isinstance(state, InstanceState) and isinstance(key, str) and key in state.manager:
                found = state, key
        frame = frame.f_back
    return found
