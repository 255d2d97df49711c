"""What happens over and over is told the first time, and then at most once an hour, with the number since."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import monotonic

REPEAT = 3600.0  # seconds
_MOST = 10_000  # that are remembered; the one that was met first is forgotten, and told anew


class _Known:
    """What has happened: when it may be told again, and how often it has happened and was not told."""

    __slots__ = ("due", "since")

    def __init__(self) -> None:
        self.due, self.since = 0.0, 0


class Throttle:
    """``clock`` counts seconds. No lock: the collector may come here at any moment."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._known: dict[Hashable, _Known] = {}

    def count(self, key: Hashable, first: bool = False) -> int:
        """It happens: how often it did since it was told last, with this time; 0 where it is not to be told now.

        ``first``: it is to be told, whatever was told before, unless another thread tells of this time too.
        """
        known = self._known.get(key)
        if known is None:
            while len(self._known) >= _MOST:
                self._known.pop(next(iter(list(self._known))), None)
            known = self._known.setdefault(key, _Known())
        known.since += 1
        now = self._clock()
        if not first and now < known.due:
            return 0
        known.due = now + REPEAT
        since, known.since = known.since, 0  # no thread can come between
        return since
