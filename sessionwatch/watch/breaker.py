"""A program that makes findings without end pays for few of their stories: the counts go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic, thread_time

from ..saying import say

WINDOW = 10  # seconds that are looked at
LEFT_OUT = 60.0  # seconds without stories
_SAID = (
    "sessionwatch: the stories of findings cost more than %g %% of the processor in %d seconds, and are left out for "
    "%d seconds at a time while that is so; all counts go on (setting breaker.share)"
)


class Breaker:
    """``share``: of the last seconds, that stories may cost; ``clock`` counts seconds, ``cost`` those of the processor.

    Processor time: a machine that is busy with other things, or a wait, is no reason to leave anything out.
    """

    def __init__(
        self, share: float, clock: Callable[[], float] = monotonic, cost: Callable[[], float] = thread_time
    ) -> None:
        self.share = share
        self.clock, self.cost = clock, cost
        self._costs = [0.0] * WINDOW  # of each second, by its number
        self._second = 0  # that the newest of them is of
        self._until = float("-inf")
        self._said = False

    @property
    def is_open(self) -> bool:
        """Whether stories are left out now."""
        return self.clock() < self._until

    def spent(self, began: float) -> None:
        """A story was told, from ``began`` to now, by what `cost` says."""
        now, cost = self.clock(), self.cost() - began
        second = int(now)
        for number in range(max(self._second + 1, second - WINDOW + 1), second + 1):
            self._costs[number % WINDOW] = 0.0
        self._second = max(self._second, second)
        self._costs[second % WINDOW] += cost
        if sum(self._costs) > self.share * WINDOW:
            self._costs = [0.0] * WINDOW
            self._until = now + LEFT_OUT
            if not self._said:
                self._said = True
                say(logging.WARNING, _SAID, 100 * self.share, WINDOW, LEFT_OUT)

    def why(self) -> str | None:
        """What is degraded by it, while it is."""
        if not self.is_open:
            return None
        return f"left out for {self._until - self.clock():.0f} more seconds: they cost more than breaker.share"
