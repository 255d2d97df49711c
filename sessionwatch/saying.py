"""What sessionwatch says of itself to `logging`, and other calls of foreign code: never while a lock of ours is held.

A handler may take locks of its own, and another thread that has them may want ours.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger("sessionwatch")


class _Here(threading.local):
    waiting: list[Callable[[], None]] | None = None  # what is to be done at the end of the block


_here = _Here()


def say(level: int, text: str, *args: object, error: BaseException | None = None) -> None:
    """One record of the logger ``sessionwatch``, now or at the end of `held_back`."""
    unlocked(lambda: logger.log(level, text, *args, exc_info=error, stacklevel=2))


def unlocked(call: Callable[[], None]) -> None:
    """Call it now, or at the end of `held_back`."""
    if _here.waiting is not None:
        _here.waiting.append(call)
    else:
        call()


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
        for call in waiting:
            call()
