"""Where a thread or a task is at this moment, asked from another thread.

Frames are looked at and let go at once, and locals of the program's are never read: that would keep what it has
dropped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from ..model import RawSite
from . import callsite, tasks

_statements: set[CodeType] = set()  # see `runs_statements`
_AWAITED = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))


@dataclass(slots=True, eq=False, repr=False)
class Whereabouts:
    """``site`` is the innermost place of the user's code; None where no code of the user's runs there.

    ``gone``: the thread has ended, the task is done. ``busy``: inside a call of SQLAlchemy's.
    ``related``: one of the codes that were asked for is on the stack. ``statement``: the connection whose statement is
    being run there; ``pool``: it waits for one of a pool.
    """

    site: RawSite | None = None
    gone: bool = False
    busy: bool = False
    related: bool = False
    statement: Any = None
    pool: bool = False


def runs_statements(function: Any) -> Any:
    """One of ours that runs a statement, of the connection that is its ``self``; returns it."""
    _statements.add(function.__code__)
    return function


def of_thread(ident: int, codes: frozenset[CodeType]) -> Whereabouts:
    """What the thread with that identifier does now."""
    frame = sys._current_frames().get(ident)
    return Whereabouts(gone=True) if frame is None else _seen(_outwards(frame), codes)


def of_task(task: Any, ident: int, codes: frozenset[CodeType]) -> Whereabouts:
    """What an asyncio task, or a greenlet, does or waits for now.

    ``ident`` is the thread of its loop, ``task`` None if collected.
    """
    if task is not None and hasattr(task, "gr_frame"):
        return _of_greenlet(task, ident, codes)
    if task is None or task.done():
        return Whereabouts(gone=True)
    awaited = list(_awaited(task.get_coro()))
    running = any(getattr(waiting, "cr_running", False) for waiting, _ in awaited)
    seen = _seen((frame for _, frame in reversed(awaited)), codes)
    if running:  # what it calls, no coroutine knows
        now = of_thread(ident, codes)
        seen = Whereabouts(now.site or seen.site, False, now.busy or seen.busy, now.related or seen.related)
        seen.statement, seen.pool = now.statement, now.pool
    return seen


def _of_greenlet(greenlet: Any, ident: int, codes: frozenset[CodeType]) -> Whereabouts:
    """What a greenlet does now. Its frames may be read in its own thread only: elsewhere they change meanwhile."""
    if greenlet.dead:
        return Whereabouts(gone=True)
    if tasks.of_this_thread(greenlet):
        return _seen(_outwards(greenlet.gr_frame or sys._getframe()), codes)  # the running one has none
    frame = sys._current_frames().get(ident) if greenlet.parent is None else None
    return _seen(_outwards(frame), codes)


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None and callsite.kind_of(frame) != callsite.STOP:
        yield frame
        frame = frame.f_back


def _awaited(waiting: Any) -> Iterator[tuple[Any, FrameType]]:
    """A coroutine and what it waits for, outermost first."""
    while waiting is not None:
        inner = None
        for frame_name, await_name in _AWAITED:
            frame = getattr(waiting, frame_name, None)
            if frame is not None:
                yield waiting, frame
                inner = getattr(waiting, await_name, None)
        waiting = inner


def _seen(frames: Iterator[FrameType], codes: frozenset[CodeType]) -> Whereabouts:
    seen = Whereabouts()
    for frame in frames:  # the innermost first
        code = frame.f_code
        seen.related = seen.related or code in codes
        if seen.site is None and callsite.kind_of(frame) == callsite.USER:
            seen.site = RawSite(code, frame.f_lasti)
        if seen.site is None:
            module = str(frame.f_globals.get("__name__", ""))
            seen.busy = seen.busy or module.startswith("sqlalchemy.")
            seen.pool = seen.pool or (module.startswith("sqlalchemy.pool.") and seen.statement is None)
            if seen.statement is None and code in _statements:
                seen.statement = frame.f_locals.get("self")  # our own function's: nothing that nobody else keeps
    return seen
