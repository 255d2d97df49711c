"""What the dashboard and the alerts show is what the client counted: with one worker and with four, restarts included.

Each expression is printed with both numbers, so this runs by itself: ``pytest tests/e2e/test_numbers.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.e2e import numbers
from tests.e2e.fleet import fleet

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.postgresql,
    pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="what it prints is lost under xdist"),
]
TRAFFIC = {
    "order": 8,
    "count": 9,
    "async count": 8,
    "refused": 4,
    "lost": 8,
    "articles": 7,
    "note": 4,
    "rename": 4,
    "late": 4,
    "forgotten": 5,
    "blocking": 4,
    "twice": 4,
    "reconnect": 4,
    "report": 4,
    "report while none is free": 1,
}


@pytest.mark.parametrize(
    ("workers", "env"),
    [(1, {"INSTANCE_LABEL": "yes"}), (4, {"INSTANCE_LABEL": "yes"})],
    ids=["one worker", "four workers"],
)
def test_what_is_shown_is_what_was_counted(
    workers: int, env: dict[str, str], postgres_url: URL, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Traffic to all workers; one is killed, and another takes its place; the same traffic again."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.metric_exporter", exc_type=ImportError)
    with fleet(workers, postgres_url, tmp_path, **env) as running:
        running.send(TRAFFIC)
        running.restart()
        running.send(TRAFFIC)
        lines = list(numbers.lines(running))
    with capsys.disabled():
        print(f"\n{workers} workers", *lines, sep="\n")
    assert [line.name for line in lines if not line.agrees] == []
