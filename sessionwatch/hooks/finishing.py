"""Before a finding is raised out of ``close()``: the work that its callers in SQLAlchemy would not come to any more.

A registry whose ``remove()`` broke off would hand the closed session to the next unit.
"""

from __future__ import annotations

import contextlib
from types import CodeType, FrameType
from typing import Any

from sqlalchemy.orm import close_all_sessions, scoped_session

from ..model import FindingError
from .reading import live_sessions

_DEPTH = 8  # frames between close() and the function that called it, with a subclass's own close() between


def finish_callers(frame: FrameType | None) -> None:
    """Do what is left of ``scoped_session.remove()`` or ``close_all_sessions()``, if that is who closes the session.

    ``frame``: of the caller of ``Session._close_impl``.
    """
    for _ in range(_DEPTH):
        if frame is None or frame.f_code is _close_others.__code__:
            return
        if frame.f_code is scoped_session.remove.__code__:
            frame.f_locals["self"].registry.clear()
        elif frame.f_code is close_all_sessions.__code__:
            _close_others()
        frame = frame.f_back


def _close_others() -> None:
    """Close every other session; the first finding of one is on its way, the others are in the report."""
    for session in live_sessions():
        with contextlib.suppress(FindingError):
            session.close()


async def finish_async(owner: Any, frame: FrameType, removing: CodeType | None) -> None:
    """The same for asyncio: ``async_scoped_session.remove()``, and the ``async with maker.begin()`` that a commit ends.

    ``owner`` is what was left: an AsyncSession, or such a block. ``frame``: of the caller.
    """
    if removing is not None and frame.f_code is removing:
        frame.f_locals["self"].registry.clear()
    session = getattr(owner, "async_session", None)
    if session is not None:
        with contextlib.suppress(FindingError):
            await session.close()
