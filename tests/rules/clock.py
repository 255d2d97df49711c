"""A clock that tests move by hand, for the watchdog."""

from __future__ import annotations

from time import perf_counter

from sessionwatch.watch.watch import Watch


class Clock:
    """The watchdog's clock of an installation; it stands still but for what is slept, however slow the machine."""

    def __init__(self, watch: Watch) -> None:
        self._watchdog = watch.watchdog
        self._watchdog.clock = self
        self._now = perf_counter()

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass, and nobody look."""
        self._now += seconds

    def sleep(self, seconds: float) -> None:
        """Let time pass, with a look of the watchdog at its beginning and at its end."""
        self._watchdog.tick()
        self._now += seconds
        self._watchdog.tick()
