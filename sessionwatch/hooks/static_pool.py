"""One static connection for all: two threads that run statements on it at the same time."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..border import settle
from ..frames import callsite
from .reading import read

if TYPE_CHECKING:
    from sqlalchemy import Dialect

    from .makers import Makers

__tracebackhide__ = True  # pytest: the story is in the message


def patch_static(makers: Makers) -> Callable[[Any], Any]:
    """``StaticPool._do_get``: from now on, who runs statements on this engine's one connection."""

    def make(original: Any) -> Any:
        def _do_get(self: Any) -> Any:
            try:
                try:
                    dialect = read.dialect(self)
                    if hasattr(dialect, "do_execute"):  # a pool without an engine has a stand-in
                        makers.wrap(dialect, "do_execute", _watched(makers, weakref.ref(dialect)))
                except Exception:
                    makers.tracker.failed("StaticPool._do_get")
                return original(self)
            except BaseException as crossed:
                late = settle(crossed, original, makers.tracker, "StaticPool._do_get")
                if late is None:
                    raise
                return late(self)

        return _do_get

    return make


def _watched(makers: Makers, reference: Any) -> Callable[[Any], Any]:
    def make(bound: Any) -> Any:
        original = bound.__func__

        def do_execute(*args: Any, **kwargs: Any) -> Any:
            dialect = reference()
            try:
                entered = _enter(makers, dialect, sys._getframe(1))
                try:
                    return original(dialect, *args, **kwargs)
                finally:
                    if entered:
                        makers.busy.pop(dialect, None)
            except BaseException as crossed:
                late = settle(crossed, original, makers.tracker, "Dialect.do_execute")
                if late is None:
                    raise
                return late(dialect, *args, **kwargs)

        return do_execute

    return make


def _enter(makers: Makers, dialect: Dialect, frame: FrameType) -> bool:
    """Whether the thread is the only one; two at a time are reported, and nothing is raised in here."""
    if not makers.tracker.active:
        return False
    with makers.tracker.guarded("StaticPool"):
        before = makers.busy.get(dialect)
        if before is None:
            makers.busy[dialect] = threading.get_ident(), callsite.mark(frame)
            return True
        if before[0] != threading.get_ident():
            makers.tell("static", dialect, callsite.mark(frame), "StaticPool", before[1])
    return False
