"""What happens over and over, in many threads: each time is told of once."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from sessionwatch.output import throttle
from sessionwatch.output.throttle import REPEAT, Throttle

THREADS, TIMES = 4, 3_000


def test_each_time_is_counted_once_with_many_threads() -> None:
    """Every time is due, and one thread may tell of what another one met; none fails, none is told of twice."""
    hours = iter(range(10**9))
    told = Throttle(lambda: next(hours) * REPEAT)

    def work(_: int) -> int:
        return sum(told.count("a pool") for _ in range(TIMES))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            numbers = list(pool.map(work, range(THREADS)))
    finally:
        sys.setswitchinterval(interval)
    assert sum(numbers) == THREADS * TIMES


def test_the_one_that_was_met_first_is_forgotten() -> None:
    """Memory is bounded: with too many kinds, the oldest is told anew."""
    told = Throttle(lambda: 1.0)
    for number in range(throttle._MOST):
        assert told.count(number) == 1
    assert (told.count(0), told.count("one more"), told.count(1), told.count(0)) == (0, 1, 0, 1)
