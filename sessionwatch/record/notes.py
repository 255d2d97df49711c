"""What the garbage collector finds: noted where it runs, said where that is safe.

The collector runs wherever something is allocated, and whoever allocates may hold a lock: of a logging handler, of a
queue, of an exporter. So what it calls (``__del__``, callbacks of weak references) only appends to a deque. The
watchdog's thread says it at once, or the next hook that is called, whichever comes first.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ..frames import callsite

_PATIENCE = 0.25  # seconds that the collector waits for the thread that says it, where nothing but user code is running
_BETWEEN = ("sessionwatch", "contextlib")  # whose frames may lie between functions of the user's: they hold no lock
_RUNNERS = ("_pytest", "unittest", "runpy", "importlib")  # that call the user's functions, with no lock
_THREADS = ("run", "_bootstrap", "_bootstrap_inner")


class _Here(threading.local):
    collecting = False  # what runs here was called by the collector, or is said of it


class Notes:
    """``wake`` rings for the thread that says what is noted: whether there is one, other than this."""

    def __init__(self, failed: Callable[[str], None], busy: Callable[[], bool]) -> None:
        self.wake: Callable[[], bool] = lambda: False
        self.when_said: Callable[[], None] = lambda: None
        self._failed = failed
        self._busy = busy  # whether this thread says something already
        self.waiting: deque[Callable[[], object]] = deque()
        self._being_said: deque[None] = deque()  # one for each thread that says something at the moment
        self._here = _Here()

    def __bool__(self) -> bool:
        return bool(self.waiting)

    @property
    def collecting(self) -> bool:
        """Whether it is the collector's: no span, no task is current in it but by chance."""
        return self._here.collecting

    @contextmanager
    def by_collector(self, hook: str) -> Iterator[None]:
        """What the collector calls, at any moment; errors stay in here."""
        before, self._here.collecting = self._here.collecting, True
        try:
            yield
        except Exception:
            self._failed(hook)
        finally:
            self._here.collecting = before

    def note(self, say: Callable[[], object]) -> None:
        """Have it said soon. Callable at any moment."""
        self.waiting.append(say)
        if self.wake() and _is_plain(sys._getframe(1)):
            self._wait()  # a program that collects by hand hears of it before it goes on

    def say(self) -> None:
        """Say what waits; to be called where no lock is held that a handler, a sink or an exporter could want."""
        if not self.waiting or self._busy():
            return
        while self.waiting:
            self._being_said.append(None)
            try:
                self._say_one()
            finally:
                self._being_said.pop()
        self.when_said()

    def say_all(self) -> None:
        """The same, and wait for what another thread is saying, for whoever asks what was found."""
        if not self._busy():
            self.say()
            self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + _PATIENCE
        while (self.waiting or self._being_said) and time.monotonic() < until:
            time.sleep(0.0005)

    def _say_one(self) -> None:
        try:
            said = self.waiting.popleft()
        except IndexError:  # another thread was faster
            return
        with self.by_collector("collected"):
            said()

    def forget(self) -> None:
        """In a forked child: what waits is the parent's, and so is who says it."""
        self.waiting.clear()
        self._being_said.clear()
        self._here = _Here()


def _is_plain(frame: FrameType | None) -> bool:
    """Whether nothing but functions of the user's is running: no library, which may hold a lock of its own."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if name in _RUNNERS or (name == "threading" and frame.f_code.co_name in _THREADS):
            return True
        if name not in _BETWEEN and callsite.kind_of(frame) != callsite.USER:
            return frame.f_back is None
        frame = frame.f_back
    return True


def in_finalizer() -> bool:
    """Whether the code that runs here may have been called by the garbage collector, in the middle of anything.

    A generator is broken off, or a ``__del__`` is running: this very thread may hold any lock.
    """
    if isinstance(sys.exception(), GeneratorExit):
        return True
    frame = sys._getframe(1).f_back
    for _ in range(25):
        if frame is None:
            return False
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
