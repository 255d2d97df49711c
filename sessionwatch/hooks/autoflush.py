"""Queries of sessions whose autoflush is off: they do not see what is pending."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..border import settle
from ..frames import callsite
from ..record.events import Misconfigured
from ..record.key import KEY
from .reading import read
from .writes import net_change

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from .makers import Makers

__tracebackhide__ = True  # pytest: the story is in the message


def patch_no_autoflush(makers: Makers) -> Callable[[Any], Any]:
    """``Session.no_autoflush``: here the program says that it means it."""

    def make(original: Any) -> Any:
        @contextmanager
        def no_autoflush(session: Session) -> Iterator[Any]:
            _count(session, 1)
            try:
                with original.fget(session) as entered:
                    yield entered
            finally:
                _count(session, -1)

        return property(no_autoflush, doc=original.__doc__)

    def _count(session: Session, number: int) -> None:
        with makers.tracker.guarded("Session.no_autoflush"):
            makers.quiet[session] = makers.quiet.get(session, 0) + number

    return make


def patch_autoflush(makers: Makers) -> Callable[[Any], Any]:
    """``Session._autoflush``: an ORM query begins. Only sessions whose autoflush is off are looked at."""

    def make(original: Any) -> Any:
        def _autoflush(self: Any) -> None:
            try:
                if not getattr(self, "autoflush", True) and any(read.unflushed(self)):
                    error = None
                    try:
                        error = _queried(makers, self, sys._getframe(1))
                    except Exception:
                        makers.tracker.failed("Session._autoflush")
                    if error is not None:
                        raise error
                original(self)
            except BaseException as crossed:
                late = settle(crossed, original, makers.tracker, "Session._autoflush")
                if late is None:
                    raise
                late(self)

        return _autoflush

    return make


def _queried(makers: Makers, session: Session, frame: FrameType) -> Exception | None:
    owner = makers.of.get(session) or type(session)
    owner = owner if owner in makers.made else session
    if makers.knows(owner, "autoflush") or makers.quiet.get(session, 0) or read.flushing(session):
        return None
    if read.refreshed(frame.f_locals.get("load_options")) is not None:
        return None  # columns of one instance: what is pending of others does not matter
    statement = frame.f_locals.get("statement")
    asked = {item.get("entity") for item in getattr(statement, "column_descriptions", ())}
    name = next((name for kind, name in _pending(session) if any(_related(kind, one) for one in asked)), None)
    if name is None:
        return None
    record = session.__dict__.get(KEY)
    made = makers.made.get(owner) or (record.opened if record is not None else None)
    if not makers.first(owner, "autoflush"):
        return None
    added = record.added if record is not None else None
    event = Misconfigured("autoflush", name, made, callsite.mark(frame), added)
    return makers.tracker.emit(event, record.allowances if record is not None else ())


def _pending(session: Session) -> Iterator[tuple[type, str]]:
    new, deleted, modified = read.unflushed(session)
    for states in (new, deleted, modified):
        for state in list(states):
            if state in new or state in deleted or net_change(state):
                yield state.class_, state.class_.__name__


def _related(kind: type, entity: Any) -> bool:
    return isinstance(entity, type) and (issubclass(kind, entity) or issubclass(entity, kind))
