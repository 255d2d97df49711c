"""Two ways to hook in, each of which undoes itself exactly: a replaced attribute, an event listener."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import event

from ..patching import patch, unseen

__all__ = ["listen", "patch", "unseen"]


def listen(target: Any, name: str, function: Callable[..., Any], **options: Any) -> Callable[[], None]:
    """Listen to a SQLAlchemy event; returns the undo, which minds that a program may have removed every listener."""
    event.listen(target, name, function, **options)

    def undo() -> None:
        if event.contains(target, name, function):
            event.remove(target, name, function)

    return undo
