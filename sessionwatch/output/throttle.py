"""What happens over and over is told the first time, and then at most once an hour, with the number since."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import monotonic

REPEAT = 3600.0  # seconds
_MOST = 10_000  # that are remembered; the one that was told first is forgotten, and told anew


class Throttle:
    """``clock`` counts seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._due: dict[Hashable, float] = {}  # when it may be told again
        self._since: dict[Hashable, int] = {}  # how often it has happened and was not told

    def count(self, key: Hashable, first: bool = False) -> int:
        """It happens: how often it did since it was told last, with this time; 0 where it is not to be told now.

        ``first``: it is to be told, whatever was told before.
        """
        self._since.setdefault(key, 0)
        self._since[key] += 1
        now = self._clock()
        if not first and now < self._due.get(key, 0.0):
            return 0
        while len(self._due) >= _MOST and key not in self._due:
            oldest = next(iter(list(self._due)))
            self._due.pop(oldest, None)
            self._since.pop(oldest, None)
        self._due[key] = now + REPEAT
        return self._since.pop(key, 1)
