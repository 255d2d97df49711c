"""The soak, in small: everything is counted, and nothing is left. `python -m tests.host.soak` runs its full length."""

from __future__ import annotations

import pytest

from tests.host import soak


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["log", "telemetry"])
def test_a_short_soak_counts_everything_and_leaves_nothing(mode: str) -> None:
    """Threads, tasks and forked children: each session and each loss is counted, once; no round leaves objects.

    With little history, so that it is full from the first round on.
    """
    run = soak.run(mode, 10_000, history=64)
    assert (run["made"]["opened"] > 9_000, run["made"]["lost"] > 0) == (True, True)
    assert soak.wrong(run) == []
