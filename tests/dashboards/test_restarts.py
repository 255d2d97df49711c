"""What a tile and an alert say across a restart: of a worker with a new identity, and of one that has the old one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from dashboards import queries
from tests.tools import tool

LOST = 'sessionwatch_sessions_closed_total{job="shop",instance="%s",sessionwatch_outcome="lost"}'
FOUND = 'sessionwatch_findings_total{job="shop",instance="%s",sessionwatch_rule="lost-writes"}'
TILE = queries.expressions("shop", ".*", "30m")["Sessions lost, __auto"]
ALERT = f"sum({queries.measured(queries.alerts()['SessionwatchLostWrites']['expr'])})"  # of 15 minutes
ENDED = "29m"
Series = dict[str, str]  # by instance: a value a minute, in promtool's words; a restart is after 20 minutes


def check(expression: str, metric: str, series: Series, value: float, folder: Path) -> None:
    """Promtool has the series, and gets this value after `ENDED`."""
    every = [{"series": metric % instance, "values": values} for instance, values in series.items()]
    expected = {"expr": expression, "eval_time": ENDED, "exp_samples": [{"labels": "{}", "value": value}]}
    case = {"interval": "1m", "input_series": every, "promql_expr_test": [expected]}
    path = folder / "case.yaml"
    path.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [case]}))
    tested = subprocess.run([tool("promtool"), "test", "rules", str(path)], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr


@pytest.mark.parametrize(
    ("series", "of_30_minutes", "of_15_minutes"),
    [
        ({"old": "0x9 1000+7x10 stale", "new": "_x20 0 0+3x8"}, 1070 + 24, 42 + 24),
        ({"old": "5x20 stale", "new": "_x25 4 stale"}, 9, 4),
        ({"old": "0x9 4x10 0 0 3x7"}, 4 + 3, 3),
        ({"old": "4x20 0x9"}, 0, 0),
        ({"old": "4x20 1x9"}, 1, 1),
    ],
    ids=[
        "a new id",
        "a new id that exports once",
        "a known id",
        "a known id, and no event",
        "a known id, born with one",
    ],
)
def test_what_happened_is_told_once(series: Series, of_30_minutes: int, of_15_minutes: int, tmp_path: Path) -> None:
    """A new id is exact, whatever the number; a known one where its counters are seen to begin again, if few."""
    check(TILE, LOST, series, of_30_minutes, tmp_path)
    check(ALERT, FOUND, series, of_15_minutes, tmp_path)


def test_a_known_id_with_many_events_is_an_estimate(tmp_path: Path) -> None:
    """Prometheus's, which knows of each restart, and is within a twentieth."""
    series = {"old": "0x9 0+70x10 0 0+50x8"}  # 700 and 400
    check(f"abs({TILE} - 1100) <= bool 55", LOST, series, 1, tmp_path)
    check(f"{TILE} == bool 1100", LOST, series, 0, tmp_path)


@pytest.mark.parametrize(("born_with", "seen"), [(4, 0), (6, 2)])
def test_a_known_id_can_hide_what_was_before_its_first_export(born_with: int, seen: int, tmp_path: Path) -> None:
    """What docs/production.md warns of: a counter that has as much as before does not look like a new one."""
    check(ALERT, FOUND, {"old": f"4x20 {born_with}x9"}, seen, tmp_path)
