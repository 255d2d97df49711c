"""The expressions of the dashboard and of the alerts, as Prometheus gets them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import yaml

FOLDER = Path(__file__).parent
FILE = FOLDER / "sessionwatch.json"
ALERTS = FOLDER / "alerts.yaml"
CHOICES = {"pool": ".*", "route": ".*"}  # All, as Grafana fills it in


def panels(file: Path = FILE) -> list[dict[str, Any]]:
    """The panels without the rows."""
    return [panel for panel in json.loads(file.read_text())["panels"] if panel["type"] != "row"]


def expressions(job: str = ".*", instance: str = ".*", window: str = "1m", file: Path = FILE) -> dict[str, str]:
    """Each panel's expressions by ``title, legend``, with Grafana's variables filled in."""
    values = {"job": job, "instance": instance} | CHOICES
    values |= dict.fromkeys(("__rate_interval", "__interval", "__range"), window)
    return {
        name_of(panel, target): filled(target["expr"], values) for panel in panels(file) for target in panel["targets"]
    }


def name_of(panel: dict[str, Any], target: dict[str, Any]) -> str:
    """What an expression is called here: the panel's title and the legend, or the letter of a table's query."""
    return f"{panel['title']}, {target['refId'] if panel['type'] == 'table' else target['legendFormat']}"


def filled(expression: str, values: dict[str, str]) -> str:
    """An expression with values in the place of its variables; KeyError for one that nobody defines."""
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expression)


def alerts(file: Path = ALERTS) -> dict[str, dict[str, Any]]:
    """The alert rules by name."""
    groups = yaml.safe_load(file.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def metrics(expression: str) -> set[str]:
    """The names of the metrics that an expression reads."""
    found: set[str] = set()

    def visit(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.VectorSelector) and part.name:
            found.add(part.name)

    promql_parser.walk(promql_parser.parse(expression), pre_visit=visit)
    return found


def measured(expression: str) -> str:
    """What an alert compares with its limit, or misses."""
    comparison = promql_parser.parse(expression)
    if isinstance(comparison, promql_parser.Call):
        assert comparison.func.name == "absent"
        (comparison,) = comparison.args
        return str(comparison.prettify())
    assert isinstance(comparison, promql_parser.BinaryExpr)
    return str(comparison.lhs.prettify())
