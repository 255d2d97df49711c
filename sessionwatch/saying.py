"""What sessionwatch says of itself to `logging`: never while a lock of ours is held.

A handler may take locks of its own, and another thread that has them may want ours.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger("sessionwatch")


class _Here(threading.local):
    waiting: list[tuple[int, str, tuple[object, ...], Any]] | None = None  # what is said at the end of the block


_here = _Here()


def say(level: int, text: str, *args: object, error: BaseException | None = None) -> None:
    """One record of the logger ``sessionwatch``, now or at the end of `held_back`."""
    if _here.waiting is not None:
        _here.waiting.append((level, text, args, error))
    else:
        logger.log(level, text, *args, exc_info=error, stacklevel=2)


@contextmanager
def held_back() -> Iterator[None]:
    """What this thread says in the block is said at its end. To be entered before a lock is taken."""
    if _here.waiting is not None:
        yield
        return
    waiting = _here.waiting = []
    try:
        yield
    finally:
        _here.waiting = None
        for level, text, args, error in waiting:
            say(level, text, *args, error=error)
