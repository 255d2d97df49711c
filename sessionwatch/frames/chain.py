"""Who called: the user's frames from a place outwards.

For what is found where it happens, they are on the stack, and cost nothing before. A place that is noted early (where a
session was opened, where it wrote) keeps them as far as the nearest caller in another file; in telemetry it does not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import CodeType, FrameType

from ..model import Called, Mark, RawSite, Site
from . import callsite
from .callsite import STOP, USER

LIMIT = 12  # frames of the user's
_FAR = 100  # frames of anybody's, around a place that is noted early
_keeps = False


def keep(on: bool) -> None:
    """Whether places that are noted early keep the frames around them."""
    global _keeps
    _keeps = on


def called(mark: Mark) -> Mark:
    """A mark that was taken just now, with the frames around its place."""
    if _keeps and mark.site is not None:
        callers = around(mark.site.code, sys._getframe(1))
        if callers:
            return mark._replace(site=_with(mark.site, callers))
    return mark


def opened(code: CodeType | None, frame: FrameType) -> tuple[RawSite, ...]:
    """The frames around one that opens a session."""
    return around(code, frame) if _keeps and code is not None else ()


def with_callers(mark: Mark, callers: tuple[RawSite, ...]) -> Mark:
    """A mark, with the frames around it that were kept elsewhere."""
    return mark._replace(site=_with(mark.site, callers)) if callers and mark.site is not None else mark


def _with(place: RawSite, callers: tuple[RawSite, ...]) -> Called:
    found = Called(*place)
    found.callers = callers
    return found


def around(code: CodeType, frame: FrameType | None) -> tuple[RawSite, ...]:
    """The user's frames around the one that runs ``code``, to the nearest caller in another file, at most 12."""
    users, passed = callsite._users, callsite._passed
    path, inside, current, left = code.co_filename, True, None, _FAR
    found: list[RawSite] = []
    while left:
        left -= 1
        if frame is None:
            current, frame = callsite.outer_greenlet(current)
            if frame is None:
                break
        running = frame.f_code
        if inside:
            inside = running is not code
        elif (file := running.co_filename) not in passed:
            kind = USER if file in users else callsite.kind_of(frame)
            if kind == USER:
                found.append(RawSite(running, frame.f_lasti))
                if file != path or len(found) == LIMIT:
                    break
            elif kind == STOP:
                break
        frame = frame.f_back
    return tuple(found)


def outwards(site: Site, frame: FrameType | None) -> tuple[Site, ...]:
    """The user's frames from ``site`` outwards, which is on the stack at or outside ``frame``; none if it is not."""
    found: list[Site] = []
    comprehension = False
    for outer in _users(frame):
        code = outer.f_code
        if found and code.co_filename == "<string>" != site.path:
            break  # of `python -c`, or what runs a worker
        here = RawSite(code, outer.f_lasti).resolve()
        if not found and (here.path, here.line, here.function) != (site.path, site.line, site.function):
            continue
        if not comprehension:  # the frame around one, up to Python 3.11, is the same function's
            found.append(here)
        comprehension = code.co_name in ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
        if len(found) == LIMIT:
            break
    return tuple(found)


def _users(frame: FrameType | None) -> Iterator[FrameType]:
    """The user's frames at or outside ``frame``, as far as an event loop or a server."""
    for outer in callsite.stack(frame):
        kind = callsite.kind_of(outer)
        if kind == STOP:
            return
        if kind == USER:
            yield outer
