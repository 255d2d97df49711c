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
from dashboards.names import LABELS, SERIES
from dashboards.promql import POOL
from tests.tools import tool

EXPRESSIONS = queries.expressions() | {name: rule["expr"] for name, rule in queries.alerts().items()}


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=list(EXPRESSIONS))
def test_an_expression_can_be_parsed(expression: str) -> None:
    """It is PromQL, and reads at least one metric of sessionwatch or of the pools."""
    names = queries.metrics(expression)
    assert names
    assert all(name.startswith(("sessionwatch_", "db_client_connection_")) for name in names)
    assert promql_parser.parse(expression)


# when a counter grew, who reports, and who does not
QUIET = r"1000 \* max by|count\(count by|group by \(job\) \(present|absent\("


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=list(EXPRESSIONS))
def test_counters_are_read_as_rates(expression: str) -> None:
    """The value of a counter itself means nothing: it begins again with each process."""
    for name in queries.metrics(expression):
        if name.endswith(("_total", "_bucket")) and not re.match(QUIET, expression):
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
    assert len(asked) == 4
    assert all(any(name in text for name in read) for text in asked)


DOTTED = queries.expressions(file=queries.FOLDER / "sessionwatch-utf8.json") | {
    name: rule["expr"] for name, rule in queries.alerts(queries.FOLDER / "alerts-utf8.yaml").items()
}


def test_both_styles_of_names_have_the_same_expressions() -> None:
    """As many, under the same titles; each can be parsed, and no name with underscores is left among the dots."""
    assert len(DOTTED) == len(EXPRESSIONS)
    for text in DOTTED.values():
        assert promql_parser.parse(text)
        assert not re.search(r"sessionwatch_\w|db_client_|db_operation_|code_f", text)


def test_the_names_with_dots_are_those_of_the_table() -> None:
    """What is quoted in an expression is a name that sessionwatch has, with Prometheus's endings."""
    known = {*SERIES.values(), *LABELS.values()}
    quoted = {name for text in DOTTED.values() for name in re.findall(r'[{(, ]"([a-z_]+\.[^"]*)"', text)}
    assert {LABELS[POOL], SERIES["sessionwatch_findings_total"]} <= quoted <= known


def test_the_other_strings_of_the_dashboard_with_dots() -> None:
    """Legends and columns have the dots too: no label with underscores is left but those of the logs."""
    text = (queries.FOLDER / "sessionwatch-utf8.json").read_text()
    labels = "|".join(LABELS)
    left = re.findall(rf"\b(?:{labels})\b", re.sub(r'"url": "[^"]*"', "", text))
    assert left == []
