"""The panels of the dashboard, drawn by Grafana's own UI components in Chromium, from a Prometheus under known traffic.

``nox -s picture`` draws the one in docs/ the same way, from more traffic.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from dashboards import picture, queries
from sessionwatch import rules
from tests import npm
from tests.e2e import crowd
from tests.e2e.observed import RENAMED, Observed
from tests.tools import tool

pytestmark = [pytest.mark.e2e, pytest.mark.postgresql, pytest.mark.slow]
BOARD = json.loads(queries.FILE.read_text())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with Grafana's components, as npm builds it."""
    tool("chromium")
    return npm.installed(queries.FOLDER / "render", tmp_path_factory, "build") / "dist"


@pytest.fixture(scope="module")
def answers(observed: Observed) -> dict[str, Any]:
    """What Prometheus says to the queries of the panels."""
    return asked(observed, "shop")


def asked(observed: Observed, job: str) -> dict[str, Any]:
    """The answers for the time of the traffic, with a step of the bars before it."""
    steps, end = math.ceil((observed.ended - observed.began) / picture.BARS) + 1, math.ceil(observed.ended)
    return picture.answers(observed.prometheus.url, end - steps * picture.BARS, end, job)


@pytest.fixture(scope="module")
def page(answers: dict[str, Any], bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> picture.Page:
    """The dashboard as it was drawn, which is a picture as well."""
    target = tmp_path_factory.mktemp("picture") / "dashboard.png"
    drawn = picture.draw(answers, bundle, target)
    assert target.read_bytes().startswith(b"\x89PNG")
    return drawn


def panel(page: picture.Page, title: str) -> picture.Panel:
    (found,) = (panel for panel in page.panels if panel.title == title)
    return found


def test_every_panel_and_row_of_the_file_is_on_the_page(page: picture.Page) -> None:
    """Under its title, and in the order of the file."""
    assert [panel.title for panel in page.panels] == [panel["title"] for panel in queries.panels()]
    assert page.rows == [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]


def test_no_panel_is_without_data(page: picture.Page) -> None:
    """The traffic has something for each."""
    assert page.empty == []
    assert "No data" not in "".join(panel.text for panel in page.panels)


def test_the_panels_show_what_prometheus_said(page: picture.Page, answers: dict[str, Any]) -> None:
    """A number is the answer to its query; bars and lines have the names of their series, and bars their numbers."""
    for each in queries.panels():
        text = panel(page, each["title"]).text
        if each["type"] == "table":
            continue  # see below
        for target in each["targets"]:
            for series in answers["results"][f"{each['id']}/{target['refId']}"]["series"]:
                if name := legend(target["legendFormat"], series["metric"]):
                    assert name in text
                if "value" in series:
                    assert re.search(rf"\b{float(series['value'][1]):g}\b", text)


def legend(template: str, labels: dict[str, str]) -> str:
    return "" if template == "__auto" else re.sub(r"{{(\w+)}}", lambda found: labels[found[1]], template)


def test_the_table_shows_every_place(page: picture.Page, answers: dict[str, Any], observed: Observed) -> None:
    """Merged and named by Grafana's own transformations: a line per place, with rule, function, route and how often."""
    (table,) = (each for each in queries.panels() if each["type"] == "table")
    text = panel(page, "Places").text
    for heading in ("Rule", "File", "Function", "Route", "Count", "Last seen", "Service"):
        assert re.search(rf"^{heading}$", text, re.MULTILINE)
    assert "Value #" not in text
    series = answers["results"][f"{table['id']}/A"]["series"]
    assert {each["metric"]["sessionwatch_rule"] for each in series} == observed.expected.findings.keys()
    for each in series:
        for label in ("sessionwatch_rule", "code_function_name", "sessionwatch_unit"):
            assert each["metric"][label] in text


def test_a_place_leads_to_its_logs_and_traces(page: picture.Page) -> None:
    """Grafana's own code filled rule and function of the first row into the links."""
    logs, traces = (json.loads(unquote(link.partition("panes=")[2]))["a"]["queries"][0] for link in page.links)
    rule = re.search("sessionwatch_rule=`([a-z-]+)` ", logs["expr"])
    assert rule is not None
    assert re.search(r"code_function_name=`telemetry_service\.\w+`$", logs["expr"])
    assert f'span.sessionwatch.findings="{rule[1]}"' in traces["query"]


def test_the_findings_on_the_page_are_those_of_the_traffic(page: picture.Page, observed: Observed) -> None:
    """Each bar has the name of a rule, and how often the requests gave a reason for it."""
    _, *bars = panel(page, "Findings by rule").text.splitlines()
    shown = dict(zip(bars[::2], map(int, bars[1::2]), strict=True))
    assert {rule: count for rule, count in shown.items() if count} == observed.expected.findings


def test_a_renamed_metric_leaves_its_panels_empty(observed: Observed, bundle: Path, tmp_path: Path) -> None:
    """Where one metric comes under another name, exactly the panels that read it say "No data"."""
    page = picture.draw(asked(observed, "renamed"), bundle, tmp_path / "renamed.png")
    expressions = queries.expressions()
    readers = {name.rpartition(", ")[0] for name, text in expressions.items() if RENAMED in queries.metrics(text)}
    assert readers
    assert set(page.empty) == readers


# -- 200 instances --------------------------------------------------------------------------------------

FEW = 10  # the ten worst instances; of anything else there are fewer


@pytest.fixture(scope="module")
def of_a_crowd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Prometheus says to the queries where 200 instances report."""
    return crowd.answers(tmp_path_factory.mktemp("crowd"))


@pytest.mark.parametrize("panel", queries.panels(), ids=lambda panel: str(panel["title"]))
def test_a_panel_of_200_instances_has_few_series(panel: dict[str, Any], of_a_crowd: dict[str, Any]) -> None:
    """One per rule, or at most ten; the table, which scrolls, one per place, of which processes keep so many."""
    for target in panel["targets"]:
        most = 200 if panel["type"] == "table" else FEW
        most = len(rules.ALL) if target["legendFormat"] == "{{sessionwatch_rule}}" else most
        assert 0 < len(of_a_crowd["results"][f"{panel['id']}/{target['refId']}"]["series"]) <= most


def test_the_dashboard_of_200_instances_can_be_read(of_a_crowd: dict[str, Any], bundle: Path, tmp_path: Path) -> None:
    """Every panel has data, no legend is longer than its panel, and 200 workers report."""
    page = picture.draw(of_a_crowd, bundle, tmp_path / "crowd.png")
    assert page.empty == []
    assert {each.title: each.cut for each in page.panels if each.cut} == {}
    assert panel(page, "Workers that report").text.split() == ["Workers", "that", "report", "200"]


def test_a_legend_of_200_entries_is_noticed(of_a_crowd: dict[str, Any], bundle: Path, tmp_path: Path) -> None:
    """Where a panel had a line per instance, most of its legend would be out of sight."""
    (active,) = (each for each in queries.panels() if each["title"] == "Active sessions")
    answer = of_a_crowd["results"][f"{active['id']}/A"]
    lines = [{**answer["series"][0], "metric": {"sessionwatch_session_kind": f"{number}"}} for number in range(200)]
    results = of_a_crowd["results"] | {f"{active['id']}/A": answer | {"series": lines}}
    page = picture.draw(of_a_crowd | {"results": results}, bundle, tmp_path / "crowd.png")
    assert {each.title: len(each.cut) > 100 for each in page.panels if each.cut} == {"Active sessions": True}
