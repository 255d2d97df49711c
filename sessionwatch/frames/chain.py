"""Who called: the user's frames from a place outwards.

For what is found where it happens, they are on the stack, and cost nothing before. A place that is noted early (where a
session was opened, where it wrote) keeps them as far as the nearest caller in another file; in telemetry it does not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import CodeType, FrameType

from ..model import Mark, RawSite, Site, called_by
from . import callsite
from .callsite import STOP, THROUGH, USER, _new

_GIVEN = "<string>"  # code of `python -c`, or what runs a worker of xdist: nobody's caller
LIMIT = 12  # frames of the user's
_FAR = 100  # frames of anybody's, around a place that is noted early
keeps = False


def keep(on: bool) -> None:
    """Whether places that are noted early keep the frames around them."""
    global keeps
    keeps = on


def called(mark: Mark, frame: FrameType | None = None) -> Mark:
    """A mark that was taken just now, with the frames around its place, which is at or outside ``frame``."""
    if keeps and mark.site is not None:
        callers = opened(mark.site.code, frame or sys._getframe(1))
        if callers:
            return _new(Mark, (called_by(mark.site, callers), mark.thread, mark.task))
    return mark


def opened(code: CodeType | None, frame: FrameType) -> tuple[RawSite, ...]:
    """The frames around one that opens a session."""
    if not keeps or code is None:
        return ()
    outer = frame.f_back
    if frame.f_code is code and outer is not None:  # the usual case, without the loop
        calling = outer.f_code
        path = calling.co_filename
        if path != code.co_filename and path in callsite._users:
            return (_new(RawSite, (calling, outer.f_lasti)),)
    return around(code, frame)


def around(code: CodeType, frame: FrameType | None) -> tuple[RawSite, ...]:
    """The user's frames around the one that runs ``code``, to the nearest caller in another file, at most 12."""
    users, passed = callsite._users, callsite._passed
    path, inside, current, left = code.co_filename, True, None, _FAR
    found: list[RawSite] = []
    while left:
        left -= 1
        try:
            if inside:
                while frame.f_code is not code:  # type: ignore[union-attr]
                    frame = frame.f_back  # type: ignore[union-attr]
                inside = False
            else:
                while (file := frame.f_code.co_filename) in passed:  # type: ignore[union-attr]
                    frame = frame.f_back  # type: ignore[union-attr]
                kind = USER if file in users else callsite.kind_of(frame)  # type: ignore[arg-type]
                if kind == USER:
                    if file == _GIVEN != path:
                        break
                    found.append(_new(RawSite, (frame.f_code, frame.f_lasti)))  # type: ignore[union-attr]
                    if file != path or len(found) == LIMIT:
                        break
                elif kind == STOP:
                    break
            frame = frame.f_back  # type: ignore[union-attr]
        except AttributeError:  # the outermost one's f_back is None
            current, frame = callsite.outer_greenlet(current)
            if frame is None:
                break
    return tuple(found)


def past(frame: FrameType) -> FrameType:
    """The first frame at or outside ``frame`` that is not THROUGH: what is asked from there on costs no second walk.

    ``frame`` itself where there is none: the user's may be in another greenlet.
    """
    passed, users, outer = callsite._passed, callsite._users, frame
    try:
        while True:
            while (path := outer.f_code.co_filename) in passed:
                outer = outer.f_back  # type: ignore[assignment]
            if path in users or callsite.kind_of(outer) != THROUGH:
                return outer
            outer = outer.f_back  # type: ignore[assignment]
    except AttributeError:  # the outermost one's f_back is None
        return frame


def outwards(site: Site, frame: FrameType | None) -> tuple[Site, ...]:
    """The user's frames from ``site`` outwards, which is on the stack at or outside ``frame``; none if it is not."""
    found: list[Site] = []
    comprehension = False
    for outer in _users(frame):
        code = outer.f_code
        if found and code.co_filename == _GIVEN != site.path:
            break
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
