"""The committed dashboard is what the code makes, and says of every panel what to do."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from dashboards import build, queries
from sessionwatch import rules

PANELS = [pytest.param(panel, id=panel["title"]) for panel in queries.panels()]
DASHBOARD = json.loads(queries.FILE.read_text())


def test_the_file_is_what_the_code_builds() -> None:
    """``python -m dashboards.build`` would change nothing."""
    assert queries.FILE.read_text(encoding="utf-8") == build.text()


def test_there_is_a_variable_for_data_source_service_and_instance() -> None:
    """Whoever imports the file chooses the data source; services and instances come from the metrics."""
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert {name: variable["type"] for name, variable in variables.items()} == {
        "datasource": "datasource",
        "job": "query",
        "instance": "query",
    }
    assert "__inputs" not in DASHBOARD


def test_the_rows_are_those_of_the_plan() -> None:
    """Health, lifetimes, losses, loads and the pool, in this order."""
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == [
        "Health at a glance",
        "Lifetimes",
        "Lost writes and leaks",
        "Lazy loads and N+1",
        "Connection pool",
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
        selectors = re.findall(r"\{([^{}]*)\}", target["expr"])
        assert selectors
        assert all(text.startswith('job=~"$job", instance=~"$instance"') for text in selectors)


@pytest.mark.parametrize("panel", [item for item in PANELS if item.values[0]["type"] in ("stat", "bargauge")])
def test_what_has_the_target_0_is_red_above_it(panel: dict[str, Any]) -> None:
    """Findings, losses, timeouts and errors turn red with the first; the number of sessions does not."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    if panel["title"] == "Sessions ended":
        assert [step["color"] for step in steps] == ["text"]
    else:
        assert [step["color"] for step in steps] == ["green", "red"]
        assert 0 < steps[1]["value"] < 1


def test_the_rules_that_panels_select_exist() -> None:
    """A renamed rule would leave its panel."""
    known = {rule.slug for rule in rules.ALL}
    text = queries.FILE.read_text() + queries.ALERTS.read_text()
    selected = re.findall(r'sessionwatch_rule(?:=~|!~|=)\\?"([^"\\]+)', text)
    assert selected
    assert {slug for item in selected for slug in item.split("|")} <= known
