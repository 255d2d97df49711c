"""Each alert fires when it should, stays silent when it should, and says what to do."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize("changed", [False, True], ids=["none fires", "all fire"])
def test_the_cases_hold_every_alert_on_both_sides(changed: bool, tmp_path: Path) -> None:
    """Where no alert ever fires, or each always does, the cases of each fail."""
    rules = yaml.safe_load(queries.ALERTS.read_text())
    for rule in rules["groups"][0]["rules"]:
        labels = ", ".join(re.findall(r"by \(([^)]*)\)", rule["expr"])[:1])
        always = f"count by ({labels}) ({{job!=''}})" if labels else "vector(1)"
        rule["expr"] = always if changed else "vector(0) > 0"
        rule.pop("for", None)
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rules))
    (tmp_path / CASES.name).write_text(CASES.read_text())
    tested = promtool("test", "rules", CASES.name, cwd=tmp_path)
    assert tested.returncode == 1
    said = re.findall(r"got: .*" if changed else r"exp: .*", tested.stdout + tested.stderr)
    assert {name for name in ALERTS if any(f'"{name}"' in line for line in said)} == ALERTS.keys()


ADDRESS = "https://git.example.org/sessionwatch/blob/main"


@pytest.mark.parametrize("address", ["", ADDRESS], ids=["path", "address"])
def test_an_alert_names_the_places(address: str, tmp_path: Path) -> None:
    """An annotation has file, function and route of its own service and rule, with how often; another the runbook."""
    case = yaml.safe_load(CASES.read_text())
    (test,) = (test for test in case["tests"] if test["name"].startswith("three workers"))
    annotations = {**ALERTS["SessionwatchLostWrites"]["annotations"]}
    annotations["summary"] = "shop lost writes, 7 times in 15 minutes"
    annotations["places"] = (
        "shop/jobs.py in shop.jobs.nightly (4); shop/views.py in shop.views.ship, POST /orders (3); "
    )
    annotations["runbook_url"] = f"{address}{'/' if address else ''}dashboards/README.md#sessionwatchlostwrites"
    labels = {"severity": "critical", "job": "shop", "sessionwatch_rule": "lost-writes"}
    expected = [{"exp_labels": labels, "exp_annotations": annotations}]
    test["alert_rule_test"] = [{"eval_time": "12m", "alertname": "SessionwatchLostWrites", "exp_alerts": expected}]
    test["external_labels"] = {"sessionwatch_docs": address} if address else {}
    test["promql_expr_test"] = []
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case | {"rule_files": [str(queries.ALERTS)], "tests": [test]}))
    if address:  # every alert carries the external labels
        labels["sessionwatch_docs"] = address
    tested = promtool("test", "rules", "case.yaml", cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_faults_page_and_advice_does_not() -> None:
    """What pages is critical; no alert is one per worker."""
    severities = {name.removeprefix("Sessionwatch"): rule["labels"]["severity"] for name, rule in ALERTS.items()}
    critical = {name for name, severity in severities.items() if severity == "critical"}
    assert critical == {"LostWrites", "SessionLeak", "Fault", "PoolTimeouts"}
    assert severities["Advice"] == "info"
    assert not any("instance" in rule["expr"] for rule in ALERTS.values())


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_runbook(name: str) -> None:
    """Numbered steps, a summary with the service's name, how urgent it is, and a heading that its link leads to."""
    rule = ALERTS[name]
    said = rule["annotations"]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert said["runbook"].startswith("1. ")
    assert "\n2. " in said["runbook"]
    assert "{{ $labels.job }}" in said["summary"] or "absent(" in rule["expr"]
    assert said["runbook_url"].endswith(f"dashboards/README.md#{name.lower()}")
    assert f"\n### {name}\n" in (queries.FOLDER / "README.md").read_text()
