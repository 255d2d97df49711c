"""asyncio's tasks: where they wait, and who waits for them. The greenlets of gevent and eventlet."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

from ..model import RawSite
from . import callsite

_AWAITABLE = (CoroutineType, AsyncGeneratorType, GeneratorType)


def current_task() -> Any:
    """The running task of this thread's loop; None without one."""
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio.current_task() if asyncio is not None else None
    except (AttributeError, RuntimeError):  # half imported, or no loop runs here
        return None


def all_tasks() -> list[Any]:
    """The tasks of every thread's loop."""
    tasks = sys.modules.get("asyncio.tasks")
    known = [getattr(tasks, name, ()) for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks")]
    for _ in range(100):
        try:
            return [task for group in known for task in list(group) if not task.done()]
        except RuntimeError:  # another thread made one meanwhile
            continue
    return []


# -- greenlets ----------------------------------------------------------------------------------------


def current_greenlet() -> Any:
    """The running greenlet where gevent or eventlet run the program, else None."""
    modules = sys.modules
    if "gevent" not in modules and "eventlet" not in modules:
        return None
    greenlet = modules.get("greenlet")
    return greenlet.getcurrent() if greenlet is not None else None


def in_greenlet() -> bool:
    """Whether this is a greenlet, not a thread of its own: a thread's first one has no parent."""
    greenlet = sys.modules.get("greenlet")
    return greenlet is not None and greenlet.getcurrent().parent is not None


def of_this_thread(greenlet: Any) -> bool:
    """Whether a greenlet belongs to the thread that asks."""
    return _root(greenlet) is _root(sys.modules["greenlet"].getcurrent())


def _root(greenlet: Any) -> Any:
    while greenlet.parent is not None:
        greenlet = greenlet.parent
    return greenlet


# -- where a task waits -------------------------------------------------------------------------------


def outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those that called it."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def suspended(task: Any) -> list[FrameType]:
    """Where a task waits, the innermost frame first."""
    found: list[FrameType] = []
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame, waiting = _step(waiting)
        if frame is not None:
            found.append(frame)
    return [inner for frame in reversed(found) for inner in (*driven(frame), frame)]


def driven(frame: FrameType) -> Iterator[FrameType]:
    """Frames of the greenlet that waits for the coroutine ``greenlet_spawn`` at ``frame``."""
    if frame.f_code.co_name == "greenlet_spawn":
        yield from outwards(getattr(frame.f_locals.get("context"), "gr_frame", None))


def _step(waiting: Any) -> tuple[FrameType | None, Any]:
    """The frame of a coroutine or generator, and what it awaits."""
    for prefix, awaits in (("cr", "cr_await"), ("ag", "ag_await"), ("gi", "gi_yieldfrom")):
        if hasattr(waiting, awaits):
            return getattr(waiting, f"{prefix}_frame"), getattr(waiting, awaits)
    if type(waiting).__module__ != "builtins":
        return None, None  # a future
    inner = (thing for thing in gc.get_referents(waiting) if isinstance(thing, _AWAITABLE))  # async for, __await__
    return None, next(inner, None)


# -- who waits for a task -----------------------------------------------------------------------------


def awaited_at(task: Any) -> RawSite | None:
    """Where the user's code waits for a task that runs none of its own, as for ``gather(session.execute(...))``.

    asyncio keeps no way from a task to who made it, but who waits for it is among its callbacks.
    """
    places = (callsite.place_among(suspended(waiting)) for waiting in _waiting(task))
    return next((place for place in places if place is not None), None)


def left(frame: FrameType | None, limit: int) -> tuple[RawSite, ...]:
    """The places of the user's code that an error at ``frame`` leaves: also of the tasks that wait for this one."""
    found = list(callsite.users(frame, limit))
    for waiting in _waiting(current_task()):
        if len(found) >= limit:
            break
        frames = (outer for outer in suspended(waiting) if callsite.kind_of(outer) == callsite.USER)
        found += [RawSite(outer.f_code, outer.f_lasti) for outer in frames]
    return tuple(found[:limit])


def _waiting(task: Any) -> Iterator[Any]:
    """The task that waits for this one, the one that waits for that, and so on; none of them twice."""
    seen = [task]
    while seen[-1] is not None:
        waiting = _waiting_for(seen[-1])
        if waiting is None or waiting in seen:
            return
        yield waiting
        seen.append(waiting)


def _waiting_for(task: Any) -> Any:
    """The task that waits for this one: by itself, through gather(), wait(), wait_for() or shield(), or in a group."""
    futures, seen = [task], []
    while futures:
        future = futures.pop()
        seen.append(future)
        for thing in _called_when_done(future):
            parent = thing if hasattr(thing, "get_coro") else getattr(thing, "_parent_task", None)
            if parent is not None and parent is not task:
                return parent
            if hasattr(thing, "_asyncio_future_blocking") and thing not in seen:
                futures.append(thing)
    return None


def _called_when_done(future: Any) -> Iterator[Any]:
    """What a future's callbacks are about: the object of a method, a partial's arguments, a closure's variables."""
    for callback, _ in getattr(future, "_callbacks", None) or ():
        yield getattr(callback, "__self__", None)
        yield from getattr(callback, "args", ())
        for cell in getattr(callback, "__closure__", None) or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not bound yet
                continue
