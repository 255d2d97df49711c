"""Replacing an attribute of somebody else's, with an undo that is exact."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from types import FunctionType
from typing import Any

from .saying import say

MISSING = object()


def patch(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[], None]:
    """Replace ``owner.name`` by ``make(original)``; returns the undo.

    The undo restores what ``vars(owner)`` held, and only while the replacement is still in place:
    where somebody has wrapped over it since, it stays, passes everything through, and says so.
    """
    raw = vars(owner).get(name, MISSING)
    original = getattr(owner, name) if raw is MISSING else raw
    replacement = make(original)
    if isinstance(original, FunctionType):
        functools.update_wrapper(replacement, original)
    setattr(owner, name, replacement)

    def undo() -> None:
        if vars(owner).get(name) is not replacement:
            where = getattr(owner, "__qualname__", getattr(owner, "__name__", owner))
            text = "%s.%s was wrapped by somebody else; sessionwatch leaves it and does nothing"
            say(logging.WARNING, text, where, name)
        elif raw is MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, raw)

    return undo


def unseen(error: BaseException) -> None:
    """Take the replacement's own frame off the traceback of a host's error that passes through it.

    To be called by the replacement itself, in its handler, before a bare ``raise``.
    """
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
