"""AsyncSession: who leaves it, taken before close() moves into a greenlet and a task of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..border import settle
from ..frames import callsite
from ..frames.chain import opened
from ..model import FindingError
from ..record.key import KEY
from ..record.life import WITH
from .callers import Exit, scope_codes, scope_of
from .finishing import finish_async
from .sessions import adopted

if TYPE_CHECKING:
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message


def patch_init(tracker: Tracker) -> Callable[[Any], Any]:
    """``AsyncSession.__init__``: its sync session's record is an async one."""
    opened = tracker.opened_by_kind

    def make(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            try:
                original(self, *args, **kwargs)
                try:
                    record = getattr(self.sync_session, KEY, None)  # not by its __dict__, which has not been made
                    if record is not None:
                        record.kind = "async"
                        opened["sync"] -= 1
                        opened["async"] += 1
                except Exception:
                    tracker.failed("AsyncSession.__init__")
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "AsyncSession.__init__")
                if late is None:
                    raise
                late(self, *args, **kwargs)

        return __init__

    return make


def patch_aenter(tracker: Tracker) -> Callable[[Any], Any]:
    """``AsyncSession.__aenter__``: a session that is entered again begins a new scope."""

    def make(original: Any) -> Any:
        async def __aenter__(self: Any) -> Any:  # noqa: N807
            try:
                record = getattr(self.sync_session, KEY, None)
                if record is not None and record.closed_how is not None:
                    record.closed_scope = "hand"
                return await original(self)
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "__aenter__")
                if late is None:
                    raise
                return await late.awaited(self)

        return __aenter__

    return make


def patch_leave(tracker: Tracker, scope: str | None, session_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``close()``, ``reset()``, ``invalidate()`` and ``__aexit__``: note the caller and its exception."""
    from sqlalchemy.ext.asyncio import async_scoped_session  # not without greenlet

    codes = scope_codes(async_scoped_session.remove)

    def make(original: Any) -> Any:
        async def leave(self: Any, *args: Any) -> Any:
            try:
                try:
                    session = session_of(self)
                    try:
                        record = session._sessionwatch
                    except AttributeError:
                        record = adopted(tracker, session)
                    if record is not None and record.exiting is None:
                        who = callsite.caller(sys._getframe(1), codes)
                        error = args[1] if len(args) == 3 else sys.exception()
                        pending = record.levels or any(record.pending)  # something may be told of this end
                        around = opened(who[0][0], sys._getframe(1)) if pending else ()
                        record.exiting = Exit(who, error, WITH if scope == WITH else scope_of(who, record), around)
                except Exception:
                    tracker.failed("AsyncSession.close")
                try:
                    return await original(self, *args)
                except FindingError:
                    with tracker.guarded("AsyncSession.close"):
                        await finish_async(self, sys._getframe(1), codes[3])
                    raise
                except BaseException as error:
                    raise
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "AsyncSession.close")
                if late is None:
                    raise
                return await late.awaited(self, *args)

        return leave

    return make
