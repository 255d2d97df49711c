"""Two threads or asyncio tasks inside one session at the same time: who they are, and where.

A session's record keeps our own frame around the statement that is being run. Whose frame that is, is
asked only when a second statement finds it there: a statement that is run by the first one itself (a
listener's, a column default's) finds it on its own stack.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session, SessionTransaction

from ..frames import callsite
from ..frames.tasks import all_tasks, awaited_at, current_task, driven, outwards, suspended
from ..model import Mark, RawSite, Site
from ..record.events import Overlap
from ..record.parts import Actor
from .private import CLOSE_IMPL

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..record.life import SessionRecord
    from ..record.tracker import Tracker

# What asyncpg, psycopg, aiomysql and pymysql say of a connection that is busy with another one's work.
_BUSY = ("another operation", "another command", "another coroutine", "Packet sequence number wrong")
__tracebackhide__ = True  # pytest: the story is in the message


def enter(tracker: Tracker, record: SessionRecord, did: str, frame: FrameType) -> Overlap | None:
    """The overlap that a second one's coming in means; None if it is the first one itself, or that has left.

    One overlap in the life of a session: what comes of it is the same story.
    """
    inside = record.inside
    if inside is None or record.overlapped is not None or not tracker.active:
        return None
    if any(outer is inside for outer in _own(frame)):
        return None
    first = another(lambda outer: outer is inside)
    return Overlap(record, current(callsite.mark(frame)), first, did) if first is not None else None


def closing(tracker: Tracker, record: SessionRecord, who: Mark, frame: FrameType) -> Overlap | None:
    """The same for a close; ``who`` called it, perhaps from another task than the one that it runs in."""
    event = enter(tracker, record, "closed a session", frame)
    return replace(event, second=current(who)) if event is not None else None


def tell(tracker: Tracker, event: Overlap) -> Exception | None:
    """Report an overlap; what comes back is to be raised."""
    raised = tracker.emit(event, event.record.allowances)
    event.record.overlapped = "\n".join(event.stories)
    return raised


def before_commit(tracker: Tracker, record: SessionRecord, frame: FrameType) -> Exception | None:
    """A commit begins: is a statement still being run? What comes back is to be raised."""
    if record.inside is not None:
        with tracker.guarded("before_commit"):
            event = enter(tracker, record, "committed a session", frame)
            return tell(tracker, event) if event is not None else None
    return None


# -- where SQLAlchemy or the driver refuses ------------------------------------------------------------


def sqlalchemy_refused(
    tracker: Tracker, session: Session, record: SessionRecord, error: BaseException, did: str, frame: FrameType
) -> None:
    """SQLAlchemy refuses to go on in a session: because another one is inside?"""
    who = callsite.mark(frame)
    if did == CLOSE_IMPL.name:
        did = "close"
        if record.exiting is not None:
            who = callsite.looked_at(record.exiting.caller[0])  # asyncio closes in another task
    _explain(tracker, record, error, f"called {did}() of a session", who, lambda at: _works_in(at, session))


def driver_refused(
    tracker: Tracker, connection: Connection, record: SessionRecord, error: Any, frame: FrameType
) -> None:
    """The driver is busy with the work of another task; fetching rows is seen only here."""
    text = str(getattr(error, "orig", error))
    if any(words in text for words in _BUSY):
        _explain(tracker, record, error, "used a session", callsite.mark(frame), lambda at: _works_on(at, connection))


def _explain(
    tracker: Tracker,
    record: SessionRecord,
    error: BaseException,
    did: str,
    who: Mark,
    inside: Callable[[FrameType], bool],
) -> None:
    """Add the story to an error of SQLAlchemy's or the driver's, if another one is inside of the session."""
    first = another(inside)
    if first is None:
        return
    if record.overlapped is None:
        tell(tracker, Overlap(record, current(who), first, did, error))
    elif record.overlapped:
        error.add_note(record.overlapped)


# -- who they are -------------------------------------------------------------------------------------


def current(mark: Mark) -> Actor:
    """The running task, else the thread."""
    task = current_task()
    now = mark.site.resolve() if mark.site is not None else None
    if mark.task is not None:
        known = task is not None and task.get_name() == mark.task
        now = now or (_resolved(awaited_at(task)) if known else None)
        return Actor("task", mark.task, now, _made(task) if known else None)
    return Actor("thread", mark.thread, now, _started(threading.get_ident()))


def another(inside: Callable[[FrameType], bool]) -> Actor | None:
    """The other thread or task that has a frame for which ``inside`` is true; None if there is none.

    Its place is the user's line that went in there, not where a listener or a driver may be by now.
    """
    for ident, top in sys._current_frames().items():
        if ident != threading.get_ident():
            frames = list(itertools.dropwhile(lambda frame: not inside(frame), outwards(top)))
            if frames:
                name = getattr(_thread(ident), "name", f"thread-{ident}")
                return Actor("thread", name, _resolved(callsite.place_among(frames)), _started(ident))
    here = current_task()
    for task in all_tasks():
        if task is not here:
            frames = list(itertools.dropwhile(lambda frame: not inside(frame), suspended(task)))
            if frames:
                place = callsite.place_among(frames) or awaited_at(task)
                return Actor("task", task.get_name(), _resolved(place), _made(task))
    return None


def _made(task: Any) -> Site | None:
    """Where a task was created, which asyncio knows in its debug mode; else its coroutine's function."""
    trace = [one for one in getattr(task, "_source_traceback", None) or () if "asyncio" not in one.filename]
    for summary in reversed(trace):
        if summary.lineno:
            named = next((one.name for one in reversed(trace) if not one.name.endswith("comp>")), summary.name)
            return Site(summary.filename, summary.lineno, named)
    coroutine = task.get_coro()
    frame: FrameType | None = getattr(coroutine, "cr_frame", None)
    if frame is None or callsite.kind_of(frame) != callsite.USER:
        return None
    return RawSite(frame.f_code, -1).resolve()


def _started(ident: int) -> Site | None:
    """The function that a thread was started for, if it is the user's."""
    code = getattr(getattr(_thread(ident), "_target", None), "__code__", None)
    if not isinstance(code, CodeType) or code.co_filename not in callsite.user_files():
        return None
    return RawSite(code, -1).resolve()


def _thread(ident: int) -> threading.Thread | None:
    active: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]  # no public look-up
    return active.get(ident)


def _resolved(place: RawSite | None) -> Site | None:
    return place.resolve() if place is not None else None


# -- where they are -----------------------------------------------------------------------------------


def _own(frame: FrameType) -> Iterator[FrameType]:
    """The caller's own stack, with the greenlets that coroutines on it drive."""
    for outer in callsite.stack(frame):
        yield outer
        yield from driven(outer)


# -- inside of what -----------------------------------------------------------------------------------


def session_in(frame: FrameType | None) -> tuple[Any, str]:
    """The session whose method refuses, and the outermost of its methods."""
    session, did = None, ""
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("sqlalchemy."):
        mine = frame.f_locals.get("self")
        if isinstance(mine, Session | SessionTransaction):
            # a transaction that has ended has no session any more
            session = mine if isinstance(mine, Session) else getattr(mine, "session", session)
            did = frame.f_code.co_name
        frame = frame.f_back
    return session, did


def _works_in(frame: FrameType, session: Session) -> bool:
    if frame.f_globals.get("__name__") != Session.__module__:
        return False
    mine = frame.f_locals.get("self")
    return mine is session or (isinstance(mine, SessionTransaction) and getattr(mine, "session", None) is session)


def _works_on(frame: FrameType, connection: Connection) -> bool:
    if not str(frame.f_globals.get("__name__", "")).startswith("sqlalchemy.engine."):
        return False
    mine = frame.f_locals.get("self")
    return mine is connection or getattr(getattr(mine, "context", None), "root_connection", None) is connection
