"""Two ways to hook in, each of which undoes itself exactly: a replaced attribute, an event listener."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..border import patch_after, stops
from ..patching import patch, unseen
from .listeners import listen

if TYPE_CHECKING:
    from ..record.tracker import Tracker

__all__ = ["become", "guarded", "listen", "patch", "patch_error", "unseen"]


def guarded(function: Callable[..., None], tracker: Tracker, name: str) -> Callable[..., None]:
    """A listener whose errors stay with us."""

    def listener(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except BaseException as crossed:
            if stops(crossed, tracker, name):
                raise

    return listener


def patch_error(tracker: Tracker, name: str, *hear: Callable[[Any, FrameType], None]) -> Callable[[Any], Any]:
    """``__init__`` of the exception class of this name: every error of the kind comes through here, whatever its path.

    Those who ``hear`` of it are given the exception and the frame that makes it.
    """

    def made(_: None, frame: FrameType, error: Any, *args: Any, **kwargs: Any) -> None:
        for heard in hear if tracker.active else ():
            try:
                heard(error, frame)
            except Exception:
                tracker.failed(f"{name}.__init__")

    return patch_after(tracker, f"{name}.__init__", made)


def become(error: Any, plain: Any, strict: type[Exception], finding: Any) -> None:
    """Let an exception of SQLAlchemy's be caught as sessionwatch's too; one of a subclass stays what it is."""
    if finding is not None and type(error) is plain:
        error.__class__ = strict
        error.finding = finding
