"""The committed dashboard is what the code makes, and says of every panel what to do."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

import pytest

from dashboards import build, queries
from dashboards.rows import COLORS
from sessionwatch import rules

PANELS = [pytest.param(panel, id=panel["title"]) for panel in queries.panels()]
DASHBOARD = json.loads(queries.FILE.read_text())


def test_the_file_is_what_the_code_builds() -> None:
    """``python -m dashboards.build`` would change nothing, in either style of names, and none of the runbooks."""
    for path, content in build.files().items():
        assert path.read_text(encoding="utf-8") == content, path.name


def test_the_variables() -> None:
    """Whoever imports the file chooses the data sources; services, workers, pools and routes come from the metrics."""
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert {name: variable["type"] for name, variable in variables.items()} == {
        "datasource": "datasource",
        "logs": "datasource",
        "traces": "datasource",
        "job": "query",
        "instance": "query",
        "pool": "query",
        "route": "query",
    }
    assert "__inputs" not in DASHBOARD


def test_the_rows_are_those_of_the_plan() -> None:
    """Health, places, lifetimes, losses, loads and the pools, in this order."""
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == [
        "Health at a glance",
        "Where",
        "Lifetimes",
        "Lost writes and leaks",
        "Lazy loads and N+1",
        "Connection pools",
    ]


def test_no_two_panels_share_a_title_an_id_or_a_place() -> None:
    """Each panel can be linked to, and none covers another."""
    everything = DASHBOARD["panels"]
    assert len({panel["title"] for panel in everything}) == len(everything)
    assert len({panel["id"] for panel in everything}) == len(everything)
    cells = [cell for panel in everything for cell in _cells(panel["gridPos"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def _cells(place: dict[str, int]) -> list[tuple[int, int]]:
    return [(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])]


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_to_do(panel: dict[str, Any]) -> None:
    """Its description is more than one sentence, and it has a unit and the data source that was chosen."""
    assert re.search(r"[.:;] .*[.`)]$", panel["description"])
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


@pytest.mark.parametrize("panel", PANELS)
def test_every_query_is_of_the_chosen_services_and_instances(panel: dict[str, Any]) -> None:
    """No query shows another service beside the one that was chosen."""
    for target in panel["targets"]:
        selectors = re.findall(r"(\w+)\{([^{}]*)\}", target["expr"])
        assert selectors
        assert all(text.startswith('job=~"$job", instance=~"$instance"') for _, text in selectors)
        pools = [text for name, text in selectors if name.startswith("db_client_")]
        assert all('otel_scope_name="sessionwatch", db_client_connection_pool_name=~"$pool"' in text for text in pools)
        places = [text for name, text in selectors if "_places_" in name]
        assert all('sessionwatch_unit=~"$route"' in text for text in places)


@pytest.mark.parametrize("panel", [item for item in PANELS if item.values[0]["type"] in ("stat", "bargauge")])
def test_what_has_the_target_0_is_red_above_it(panel: dict[str, Any]) -> None:
    """Faults, losses, timeouts and errors turn red with the first; advice and numbers of sessions do not."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    if panel["title"] in ("Advice", "Sessions ended", "Workers that report"):
        assert [step["color"] for step in steps] == ["text"]
    else:
        assert [step["color"] for step in steps] == ["green", "red"]
        assert 0 < steps[1]["value"] < 1


def test_the_rules_that_panels_select_exist() -> None:
    """A renamed rule would leave its panel."""
    known = {rule.slug for rule in rules.ALL}
    text = queries.FILE.read_text()
    selected = re.findall(r'sessionwatch_rule(?:=~|!~|=)\\?"([^"\\]+)', text)
    assert selected
    assert {slug for item in selected for slug in item.split("|")} <= known


def test_a_rule_has_one_colour_in_all_panels() -> None:
    """Each rule has one of its own, wherever findings are shown by rule: bars, lines and the table."""
    slugs = {rule.slug for rule in rules.ALL}
    assert len(set(COLORS.values())) == len(COLORS) == len(slugs)
    panels = [panel for panel in queries.panels() if panel["targets"][0]["legendFormat"] == "{{sessionwatch_rule}}"]
    assert len(panels) == 4
    for panel in panels:
        fixed = {
            item["matcher"]["options"]: item["properties"][0]["value"] for item in panel["fieldConfig"]["overrides"]
        }
        assert {slug: color["fixedColor"] for slug, color in fixed.items()} == COLORS
    (table,) = (panel for panel in queries.panels() if panel["type"] == "table")
    (rule,) = (item for item in table["fieldConfig"]["overrides"] if item["matcher"]["options"] == "Rule")
    (mapped,) = next(part["value"] for part in rule["properties"] if part["id"] == "mappings")
    assert {slug: value["color"] for slug, value in mapped["options"].items()} == COLORS


def test_faults_and_advice_are_told_apart_by_the_rules_own_severity() -> None:
    """What tiles and alerts leave out as advice is what the registry calls so; a rule unknown to them is a fault."""
    advice = "|".join(rule.slug for rule in rules.ALL if rule.severity == "advice")
    expressions = queries.expressions()
    assert f'sessionwatch_rule!~"{advice}"' in expressions["Faults, __auto"]
    assert f'sessionwatch_rule=~"{advice}"' in expressions["Advice, __auto"]
    rule = queries.alerts()
    assert f'sessionwatch_rule!~"lost-writes|session-leak|{advice}"' in rule["SessionwatchFault"]["expr"]
    assert f'sessionwatch_rule=~"{advice}"' in rule["SessionwatchAdvice"]["expr"]


@pytest.mark.parametrize("panel", PANELS)
def test_the_number_of_series_does_not_grow_with_the_workers(panel: dict[str, Any]) -> None:
    """With 200 instances a panel shows what it shows with one: sums, the fullest, the ten worst."""
    for target in panel["targets"]:
        by = re.findall(r"by \(([^)]*)\)", target["expr"])
        outermost = by[0].split(", ") if by else []
        assert "instance" not in outermost or re.match(r"count\(|sort_desc\(topk\(10, ", target["expr"])


def test_a_quantile_says_that_it_begins_late() -> None:
    """A histogram is born with its first value, which is no rate: a quantile says so, and numbers count it."""
    every = [panel for panel in queries.panels() if "_bucket{" in panel["targets"][0]["expr"]]
    quantiles = [panel for panel in every if "histogram_quantile(" in panel["targets"][0]["expr"]]
    assert len(quantiles) == 6
    assert all("before its first export" in panel["description"] for panel in quantiles)
    (counted,) = (panel for panel in every if panel not in quantiles)
    assert counted["targets"][0]["expr"].count("last_over_time(") == 3


def test_no_alert_reads_a_histogram() -> None:
    """What it would need is missing until the first value, and that value is not seen as an increase."""
    read = {name for rule in queries.alerts().values() for name in queries.metrics(rule["expr"])}
    assert [name for name in read if name.endswith(("_bucket", "_count", "_sum"))] == []


def test_connections_are_never_summed_over_pools() -> None:
    """Each gauge of a pool is grouped by the pool."""
    gauges = r"db_client_connection_(?:count|max|pending_requests)"
    read = [text for text in queries.expressions().values() if re.search(gauges, text)]
    assert len(read) == 4
    for text in read:
        assert all("db_client_connection_pool_name" in labels for labels in re.findall(r"by \(([^)]*)\)", text))


def test_the_table_links_to_logs_and_traces() -> None:
    """Both open Explore with the data source that was chosen, in the time that is shown, for the row's rule."""
    (table,) = (panel for panel in queries.panels() if panel["type"] == "table")
    (rule,) = (item for item in table["fieldConfig"]["overrides"] if item["matcher"]["options"] == "Rule")
    links = next(part["value"] for part in rule["properties"] if part["id"] == "links")
    panes = [json.loads(unquote(link["url"].partition("panes=")[2]))["a"] for link in links]
    assert [pane["datasource"] for pane in panes] == ["${logs}", "${traces}"]
    assert all("${__data.fields.Rule}" in json.dumps(pane["queries"]) for pane in panes)
    assert all(pane["range"] == {"from": "${__from}", "to": "${__to}"} for pane in panes)
