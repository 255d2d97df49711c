"""Which signals are passed on, and handlers for them that are taken back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def _present(*names: str) -> frozenset[signal.Signals]:
    return frozenset(signal.Signals[name] for name in names if name in signal.Signals.__members__)


# A terminal sends these to the child as well, because it sends them to the whole foreground group.
FROM_TERMINAL = _present("SIGINT", "SIGQUIT", "SIGHUP", "SIGWINCH", "SIGCONT")
STOPS = _present("SIGTTIN", "SIGTTOU")
PASSED_ON = FROM_TERMINAL | STOPS | _present("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGABRT", "SIGIO", "SIGPWR")
ENDS = _present("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
_PATIENCE = 3  # signals until we end though the report is not complete


@contextmanager
def handlers(handler: Any) -> Iterator[None]:
    """``handler`` for what is passed on; a signal that is ignored stays so, for the child inherits that."""
    before = {signum: signal.getsignal(signum) for signum in PASSED_ON}
    mine = [signum for signum, present in before.items() if present not in (signal.SIG_IGN, None)]
    for signum in mine:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum in mine:
            signal.signal(signum, before[signum])


@contextmanager
def kept_waiting() -> Iterator[list[int]]:
    """What would end us waits until the block is left, and is in the list that this yields; the third one does not.

    A second Ctrl-C must not cost the report that the first one asked for, nor leave our folder behind.
    """
    waiting: list[int] = []

    def handle(signum: int, _: object) -> None:
        if signum in ENDS:
            waiting.append(signum)
        if len(waiting) >= _PATIENCE:
            raise SystemExit(128 + signum)

    try:
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
    except (ValueError, TypeError):  # not in the main thread, or a handler that Python does not know
        yield waiting
        return
    with handlers(handle):
        yield waiting
