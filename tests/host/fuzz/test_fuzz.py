"""A short run of the fuzz, the same each time; the long one is ``python -m tests.host.fuzz``."""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis")

from . import running


@pytest.mark.parametrize(("kind", "steps"), [("sync", 1000), ("async", 500)])
def test_what_is_said_of_sessions_agrees_with_the_database(kind: str, steps: int) -> None:
    """Random programs of sessions: lost writes and leaks are reported where there are some, and nowhere else."""
    assert running.run(kind, steps, derandomize=True) >= steps // 2
