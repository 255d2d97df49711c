"""Exceptions that are not on their way any more, and that a function was given to deal with."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FrameType

from .callsite import STOP, kind_of, outer_greenlet


def handed_exceptions(frame: FrameType | None, until: CodeType | None) -> Iterator[BaseException]:
    """Exceptions that functions at or outside ``frame`` were given as arguments, as teardown functions are.

    The walk ends at ``until`` and at an event loop or server.
    """
    current = None
    while True:
        while frame is not None:
            code = frame.f_code
            if code is until or kind_of(frame) == STOP:
                return
            local = frame.f_locals
            arguments = (local.get(name) for name in code.co_varnames[: code.co_argcount])
            yield from (value for value in arguments if isinstance(value, BaseException))
            frame = frame.f_back
        current, frame = outer_greenlet(current)
        if frame is None:
            return
