"""Reads that need the database under asyncio, outside of SQLAlchemy's greenlet: nothing could await it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from sqlalchemy.exc import MissingGreenlet, StatementError
from sqlalchemy.orm import InstanceState

from .. import callsite
from ..events import ImplicitRead
from ..tracker import Tracker
from .ownership import allowances, foreign
from .unloaded import facts

__tracebackhide__ = True  # pytest: the story is in the message


def patch_missing(tracker: Tracker, strict: type[MissingGreenlet]) -> Callable[[Any], Any]:
    """``MissingGreenlet.__init__``: every refusal comes through here, whatever its path.

    ``strict`` is the class that the exception turns into where the rule is set to ``raise``.
    """

    def make(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(self, *args, **kwargs)
            frame = sys._getframe().f_back  # None at the root of a greenlet
            if tracker.active and frame is not None:
                try:
                    refused(self, frame)
                except Exception:
                    tracker.failed("MissingGreenlet.__init__")

        return __init__

    def refused(error: Any, frame: FrameType) -> None:
        state, key = _read_above(frame)
        if state is None or foreign(tracker, state):
            return
        event = ImplicitRead(**facts(tracker, state, key, frame), error=error)
        raised = tracker.emit(event, allowances(tracker, state))
        if raised is not None and type(error) is MissingGreenlet:
            error.__class__ = strict
            error.finding = raised.finding  # type: ignore[attr-defined]

    return make


def patch_wrapped(tracker: Tracker, strict: type[StatementError]) -> Callable[[Any], Any]:
    """``StatementError.__init__``: where SQLAlchemy 2.1 wraps its error, the story moves to what a program catches."""

    def make(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(self, *args, **kwargs)
            if isinstance(self.orig, MissingGreenlet) and tracker.active:
                try:
                    moved(self, self.orig)
                except Exception:
                    tracker.failed("StatementError.__init__")

        return __init__

    def moved(error: Any, inner: Any) -> None:
        for note in inner.__dict__.pop("__notes__", ()):
            error.add_note(note)
        finding = getattr(inner, "finding", None)
        if finding is not None and type(error) is StatementError:
            error.__class__ = strict
            error.finding = finding  # type: ignore[attr-defined]

    return make


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
