"""Bound methods that are handed to a worker thread: no line of the program is on that thread's stack.

``await asyncio.to_thread(session.close)`` and anyio's ``to_thread.run_sync()``: who awaits is the user's line.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from types import FrameType, MethodType
from typing import Any

from ..model import RawSite
from . import callsite
from .tasks import all_tasks, outwards, suspended

_WORKERS = ("asyncio_", "AnyIO worker")  # names of threads that do a coroutine's work


def awaited_at(target: Any) -> tuple[RawSite, str | None] | None:
    """Where a coroutine of the user's awaits a method of ``target``, which this thread runs, and its task's name."""
    if not threading.current_thread().name.startswith(_WORKERS):
        return None
    for task in all_tasks():
        place = _awaits(suspended(task), target)
        if place is not None:
            return place, task.get_name()
    for ident, top in sys._current_frames().items():  # it may not have come to wait yet
        place = _awaits(list(outwards(top)), target) if ident != threading.get_ident() else None
        if place is not None:
            return place, None
    return None


def _awaits(frames: list[FrameType], target: Any) -> RawSite | None:
    """The place of the user's that hands over a method of ``target``; whoever was given it only passes it on."""
    given, passing = False, None
    for frame in frames:
        is_given = _is_given(frame, target)
        if callsite.kind_of(frame) == callsite.USER:
            if not given and not is_given:
                return None
            passing = RawSite(frame.f_code, frame.f_lasti)
            if not is_given:
                break
        given = given or is_given
    return passing


def _is_given(frame: FrameType, target: Any) -> bool:
    return any(one is target for value in frame.f_locals.values() for one in _bound(value))


def _bound(value: Any) -> Iterator[Any]:
    while isinstance(value, functools.partial):
        yield from (part.__self__ for part in value.args if isinstance(part, MethodType))
        value = value.func
    if isinstance(value, MethodType):
        yield value.__self__
