"""asyncio's tasks: where they wait, who waits for them, and the way out of an error. Greenlets of gevent, eventlet."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import dropwhile, islice
from threading import get_ident
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, NamedTuple

from ..model import RawSite
from . import callsite

_AWAITABLE = (CoroutineType, AsyncGeneratorType, GeneratorType)
_FUTURES = "concurrent.futures._base"
_NEAR = 8  # frames between a lock and the function that waits for a future


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


def _waiting(task: Any) -> Iterator[Any]:
    """The task that waits for this one, the one that waits for that, and so on; none of them twice."""
    seen = [task]
    while seen[-1] is not None:
        waiting = waiting_for(seen[-1]).task
        if waiting is None or waiting in seen:
            return
        yield waiting
        seen.append(waiting)


class Waiting(NamedTuple):
    """Who gets the outcome of a task or future: one of the three, or nobody that is known."""

    task: Any = None  # which awaits it
    loop: Any = None  # it is what the loop runs: who runs the loop
    future: Any = None  # of `concurrent.futures`: a thread
    kept: bool = False  # gather(return_exceptions=True): an error arrives as a value


def waiting_for(task: Any) -> Waiting:
    """Who waits: by itself, through gather(), wait(), wait_for() or shield(), in a group, or for a thread's future."""
    futures, seen = [task], []
    kept = False
    while futures:
        future = futures.pop()
        seen.append(future)
        for callback in _callbacks(future):
            if getattr(callback, "__name__", "") == "_run_until_complete_cb":
                return Waiting(loop=future.get_loop())
            variables = _variables(callback)
            kept = kept or (variables.get("return_exceptions") is True and callback.__module__ == "asyncio.tasks")
            things = (getattr(callback, "__self__", None), *getattr(callback, "args", ()), *variables.values())
            for thing in things:
                parent = thing if hasattr(thing, "get_coro") else getattr(thing, "_parent_task", None)
                if parent is not None and parent is not task:
                    return Waiting(task=parent, kept=kept)
                if is_future(thing) and thing not in seen:
                    futures.append(thing)
    return Waiting(future=next((one for one in seen if hasattr(one, "_done_callbacks")), None), kept=kept)


def is_future(thing: Any) -> bool:
    """Whether it is asyncio's, or one of `concurrent.futures`."""
    return hasattr(thing, "_asyncio_future_blocking") or hasattr(thing, "_done_callbacks")


def _callbacks(future: Any) -> list[Any]:
    """What a future calls when it is done."""
    of_threads = getattr(future, "_done_callbacks", None)
    if of_threads is not None:
        return list(of_threads)
    return [callback for callback, _ in getattr(future, "_callbacks", None) or ()]


def _variables(callback: Any) -> dict[str, Any]:
    """The variables that a function has of those around it."""
    found: dict[str, Any] = {}
    names = getattr(getattr(callback, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, getattr(callback, "__closure__", None) or (), strict=False):
        with suppress(ValueError):  # not bound yet
            found[name] = cell.cell_contents
    return found


# -- the way out of an error ---------------------------------------------------------------------------


class Way(NamedTuple):
    """Of an error, as far as it is known when it arises."""

    places: tuple[RawSite, ...]  # the user's code, the innermost first
    kept: bool  # it ends as a value: who waits is handed the error, and nothing is raised


def left(frame: FrameType | None, limit: int) -> Way:
    """The way out of an error at ``frame``, also through those that wait for this task or this thread's work."""
    found, seen = list(callsite.users(frame, limit)), []
    carrier = current_task() or _work(callsite.stack(frame))
    kept = False
    while carrier is not None and carrier not in seen and len(found) < limit:
        seen.append(carrier)
        waiting = waiting_for(carrier)
        carrier, frames, kept = _outside(waiting, frame)
        users = (outer for outer in frames if callsite.kind_of(outer) == callsite.USER)
        found += [RawSite(outer.f_code, outer.f_lasti) for outer in users]
    return Way(tuple(found[:limit]), kept)


def left_since(error: BaseException | None) -> list[RawSite]:
    """The places that it has left until now: a future or task raises it again for who asks later."""
    found: list[RawSite] = []
    step = error.__traceback__ if error is not None else None
    while step is not None:
        if callsite.kind_of(step.tb_frame) == callsite.USER:
            found.append(RawSite(step.tb_frame.f_code, step.tb_lasti))
        step = step.tb_next
    return found[::-1]


def _outside(waiting: Waiting, frame: FrameType | None) -> tuple[Any, list[FrameType], bool]:
    """What carries an error on, the frames that it leaves there, and whether it ends as a value."""
    if waiting.kept:
        return None, [], True
    if waiting.task is not None:
        return waiting.task, suspended(waiting.task), False
    if waiting.loop is not None:
        frames = list(_around(waiting.loop, frame))
        return _work(frames), frames, False
    frames, kept = _blocked_by(waiting.future) if waiting.future is not None else ([], False)
    return _work(frames), frames, kept


def _work(frames: Iterable[FrameType]) -> Any:
    """The future of what a worker thread is doing, of `concurrent.futures` or anyio; None elsewhere."""
    for frame in frames:
        if frame.f_code.co_name == "run":
            module = frame.f_globals.get("__name__")
            if module == "concurrent.futures.thread":
                return getattr(frame.f_locals.get("self"), "future", None)
            if module == "anyio._backends._asyncio":
                return frame.f_locals.get("future")
    return None


def _around(loop: Any, frame: FrameType | None) -> Iterator[FrameType]:
    """The frames that run an event loop, which may be another thread's."""
    thread: int = getattr(loop, "_thread_id", None) or 0
    stack = callsite.stack(frame) if thread == get_ident() else outwards(sys._current_frames().get(thread))
    kinds = ((callsite.kind_of(outer), outer) for outer in stack)
    inner = dropwhile(lambda one: one[0] != callsite.STOP, kinds)
    outside = (outer for kind, outer in inner if kind != callsite.STOP)
    return _up_to_a_framework(outside)


def _blocked_by(future: Any) -> tuple[list[FrameType], bool]:
    """The frames of a thread that waits for a future, and whether it has asked for the error as a value."""
    for thread, frame in sys._current_frames().items():
        if thread == get_ident():
            continue
        for outer in islice(outwards(frame), _NEAR):
            if outer.f_globals.get("__name__") == _FUTURES and _waits(outer, future):
                return list(_up_to_a_framework(outwards(outer))), outer.f_code.co_name == "exception"
    return [], False


def _waits(frame: FrameType, future: Any) -> bool:
    """For it alone, or for several, as ``map()`` and ``wait()`` do."""
    names = frame.f_locals
    several = names.get("fs")
    return names.get("self") is future or (isinstance(several, list | set | dict) and future in several)


def _up_to_a_framework(frames: Iterable[FrameType]) -> Iterator[FrameType]:
    """Whatever called the user's code, a library or another loop, answers the error."""
    inside = False
    for frame in frames:
        kind = callsite.kind_of(frame)
        if kind == callsite.STOP or (kind == callsite.LIBRARY and inside):
            return
        inside = inside or kind == callsite.USER
        yield frame
