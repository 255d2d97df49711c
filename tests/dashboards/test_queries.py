"""Every expression is PromQL, reads metrics that sessionwatch has, and means one thing."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import promql_parser
import pytest
import yaml

from dashboards import queries
from tests.tools import tool

EXPRESSIONS = queries.expressions() | {name: rule["expr"] for name, rule in queries.alerts().items()}


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=list(EXPRESSIONS))
def test_an_expression_can_be_parsed(expression: str) -> None:
    """It is PromQL, and reads at least one metric of sessionwatch or of the pools."""
    names = queries.metrics(expression)
    assert names
    assert all(name.startswith(("sessionwatch_", "db_client_connection_")) for name in names)
    assert promql_parser.parse(expression)


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=list(EXPRESSIONS))
def test_counters_are_read_as_rates(expression: str) -> None:
    """The value of a counter itself means nothing: it begins again with each process."""
    for name in queries.metrics(expression):
        if name.endswith(("_total", "_bucket")):
            assert re.search(rf"\b(rate|increase)\({name}", expression)


def test_promtool_accepts_every_expression(tmp_path: Path) -> None:
    """Prometheus's own parser and type check, for each as a recording rule."""
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(EXPRESSIONS.values())]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run([tool("promtool"), "check", "rules", str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(EXPRESSIONS)} rules found" in checked.stdout


def test_an_unknown_variable_is_noticed() -> None:
    """A typo in a variable's name would otherwise go to Prometheus as it is."""
    with pytest.raises(KeyError):
        queries.filled('up{job="$jbo"}', {"job": "shop"})


def test_the_variables_queries_read_one_metric() -> None:
    """Services and instances are looked up in a metric that the panels read too."""
    variables = json.loads(queries.FILE.read_text())["templating"]["list"]
    asked = [variable["query"]["query"] for variable in variables if variable["type"] == "query"]
    read = {name for expression in EXPRESSIONS.values() for name in queries.metrics(expression)}
    assert len(asked) == 2
    assert all(any(name in text for name in read) for text in asked)
