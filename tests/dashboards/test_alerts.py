"""Each alert fires when it should, stays silent when it should, and says what to do."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from dashboards import queries
from tests.tools import tool

CASES = queries.FOLDER / "alerts_test.yaml"
ALERTS = queries.alerts()


def promtool(*arguments: str, cwd: Path = queries.FOLDER) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *arguments], cwd=cwd, capture_output=True, text=True)


def test_promtool_accepts_the_rules() -> None:
    """``promtool check rules`` finds nothing wrong, templates of the annotations included."""
    checked = promtool("check", "rules", queries.ALERTS.name)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(ALERTS)} rules found" in checked.stdout


def test_every_alert_fires_and_stays_silent() -> None:
    """``promtool test rules`` over all cases."""
    tested = promtool("test", "rules", CASES.name)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_the_cases_hold_an_alert_on_both_sides(name: str, tmp_path: Path) -> None:
    """Without its limit, or with one that is out of reach, the cases of an alert fail."""
    tests = yaml.safe_load(CASES.read_text())["tests"]
    assert any(item["alertname"] == name and not item["exp_alerts"] for test in tests for item in silent_cases(test))
    for limit in ("> 1e9", ">= 0"):
        text = queries.ALERTS.read_text()
        before, found, rest = text.partition(f"alert: {name}\n")
        (tmp_path / "alerts.yaml").write_text(before + found + rest.replace("> 0\n", f"{limit}\n", 1))
        (tmp_path / CASES.name).write_text(CASES.read_text())
        assert promtool("test", "rules", CASES.name, cwd=tmp_path).returncode == 1


def silent_cases(test: dict[str, list[dict[str, object]]]) -> list[dict[str, object]]:
    return test.get("alert_rule_test", [])


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_runbook(name: str) -> None:
    """Numbered steps, a summary with the service's name, and how urgent it is."""
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["runbook"].startswith("1. ")
    assert "\n2. " in rule["annotations"]["runbook"]
    assert "{{ $labels.job }}" in rule["annotations"]["summary"]
