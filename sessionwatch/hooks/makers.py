"""Engines and sessionmakers: the lines that made them, and what was told of their settings."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from sqlalchemy.orm import Session

from ..border import patch_after, settle
from ..frames import callsite
from ..frames.chain import called
from ..record.events import Misconfigured

if TYPE_CHECKING:
    from sqlalchemy import Dialect, Engine

    from ..model import Mark
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message
Kind = Literal["expire", "foreign-keys", "static", "autoflush"]


class Makers:
    """What is known of engines and sessionmakers, by weak references: where they were made, what was told of them."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.made: WeakKeyDictionary[Any, Mark] = WeakKeyDictionary()  # by dialect, session class or async maker
        self.of: WeakKeyDictionary[Session, Any] = WeakKeyDictionary()  # of asyncio sessions
        self.quiet: WeakKeyDictionary[Session, int] = WeakKeyDictionary()  # inside of no_autoflush
        self.busy: WeakKeyDictionary[Any, tuple[int, Mark]] = WeakKeyDictionary()  # by dialect: who runs a statement
        self._told: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
        self._wrapped: list[tuple[Any, str, Any]] = []

    def first(self, owner: Any, kind: Kind) -> bool:
        """Whether nothing was said yet of this setting of ``owner``."""
        if self.knows(owner, kind):
            return False
        self._told.setdefault(owner, set()).add(kind)
        return True

    def knows(self, owner: Any, kind: Kind) -> bool:
        """Whether something was said of this setting of ``owner``."""
        return kind in self._told.get(owner, ())

    def tell(self, kind: Kind, owner: Any, used: Mark | None, subject: str = "", other: Mark | None = None) -> Any:
        """Report a setting once; returns what is to be raised at a safe point."""
        if not self.first(owner, kind):
            return None
        return self.tracker.emit(Misconfigured(kind, subject, self.made.get(owner), used, other))

    def wrap(self, dialect: Dialect, name: str, make: Callable[[Any], Any]) -> None:
        """Replace a method of one dialect, until `close`."""
        if name not in vars(dialect):
            replacement = make(getattr(dialect, name))
            setattr(dialect, name, replacement)
            self._wrapped.append((weakref.ref(dialect), name, replacement))

    def close(self) -> None:
        for reference, name, replacement in self._wrapped:
            dialect = reference()
            if dialect is not None and vars(dialect).get(name) is replacement:
                delattr(dialect, name)
        self._wrapped.clear()


def patch_made(makers: Makers, key: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``__init__`` of sessionmakers: remember the line, under what ``key`` makes of the object."""

    def made(_: None, frame: FrameType, maker: Any, *args: Any, **kwargs: Any) -> None:
        makers.made[key(maker)] = called(callsite.mark(frame))

    return patch_after(makers.tracker, "sessionmaker.__init__", made)


def remembered(makers: Makers) -> Callable[[Any, FrameType], None]:
    """The line of a ``create_engine``."""

    def remember(engine: Engine, frame: FrameType) -> None:
        makers.made[engine.dialect] = called(callsite.mark(frame))

    return remember


def patch_engine_created(tracker: Tracker, made: tuple[Callable[[Any, FrameType], None], ...]) -> Callable[[Any], Any]:
    """``Dialect.engine_created``, which ``create_engine`` calls. ``made`` hears of the engine.

    Not ``Engine.__init__``, whose signature ``create_engine`` looks at to find out which arguments it takes.
    """

    def make(original: Any) -> Any:
        def engine_created(cls: Any, engine: Engine) -> None:
            try:
                original.__func__(cls, engine)
                for listener in made:
                    try:
                        listener(engine, sys._getframe(1))
                    except Exception:
                        tracker.failed("Dialect.engine_created")
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "Dialect.engine_created")
                if late is None:
                    raise
                late(cls, engine)

        return classmethod(engine_created)

    return make


def patch_async_call(makers: Makers) -> Callable[[Any], Any]:
    """``async_sessionmaker.__call__``: which maker an asyncio session is from."""

    def made(session: Any, frame: FrameType, maker: Any, **kwargs: Any) -> None:
        makers.of[session.sync_session] = maker

    return patch_after(makers.tracker, "async_sessionmaker.__call__", made)


def after_commit(makers: Makers) -> Callable[[Any], None]:
    """An asyncio session that empties what it holds by its commit."""

    def committed(session: Session) -> None:
        maker = makers.of.get(session)
        if maker is None or not session.expire_on_commit or not len(session.identity_map):
            return
        try:
            if not session.in_nested_transaction():
                makers.tell("expire", maker, callsite.mark(sys._getframe(1)), "async_sessionmaker")
        except Exception:
            makers.tracker.failed("makers.after_commit")

    return committed
