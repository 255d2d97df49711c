"""Builds the files for Grafana and Prometheus: ``python -m dashboards.build`` (needs the extra ``dashboards``).

``sessionwatch.json`` imports into Grafana 11 to 13. ``sessionwatch-utf8.json`` and ``alerts-utf8.yaml`` are the same
for series under names with dots. The runbooks at the end of ``README.md`` are those of ``alerts.yaml``. All are
committed, and a test holds them equal to what this makes.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from .names import LABELS, dotted
from .promql import OURS, POOL, SELECTED
from .queries import ALERTS, FILE, FOLDER, alerts
from .rows import MOST, OPENED, PLACES, UNIT, rows
from .style import SOURCE

README = FOLDER / "README.md"
MARK = "<!-- What follows is made from alerts.yaml by python -m dashboards.build. -->\n"


def build() -> Dashboard:
    """The whole dashboard."""
    made = (
        Dashboard("SQLAlchemy sessions (sessionwatch)")
        .uid("sessionwatch")
        .description(
            "What sessionwatch counts in production: faults, lifetimes, loads and pools of SQLAlchemy sessions."
        )
        .tags(["sqlalchemy", "sessionwatch", "opentelemetry"])
        .editable()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-6h", "now")
        .refresh("1m")
        .timezone("browser")
        .with_variable(DatasourceVariable("datasource").label("Metrics").type("prometheus"))
        .with_variable(DatasourceVariable("logs").label("Logs").type("loki"))
        .with_variable(DatasourceVariable("traces").label("Traces").type("tempo"))
        .with_variable(_chooser("job", "Service", f"label_values({OPENED}, job)"))
        .with_variable(_chooser("instance", "Instance", f'label_values({OPENED}{{job=~"$job"}}, instance)'))
        .with_variable(_label("pool", "Pool", POOL, f"{MOST}{{{SELECTED}, {OURS}}}"))
        .with_variable(_label("route", "Route", UNIT, f"last_over_time({PLACES}{{{SELECTED}}}[$__range])"))
    )
    numbers = itertools.count(1)
    for row, panels in rows():
        made.with_row(row.id(next(numbers)))
        for panel in panels:
            made.with_panel(panel.id(next(numbers)))
    return made


def text() -> str:
    """The dashboard as the file has it."""
    made = json.loads(JSONEncoder().encode(build().build()))
    for variable in made["templating"]["list"]:
        # of an interval, or unknown to Grafana 11.0; the SDK gives them to every variable
        for name in ("auto", "auto_count", "auto_min", "allowCustomValue"):
            variable.pop(name, None)
    for panel in made["panels"]:
        panel.get("options", {}).pop("footer", None)  # of a table; the SDK's default, unknown to Grafana 12 and later
    return json.dumps(made, sort_keys=True, indent=2) + "\n"


def with_dots(dashboard: str) -> str:
    """A dashboard for series under names with dots."""
    made = _with_dots(json.loads(dashboard))
    made |= {"uid": f"{made['uid']}-utf8", "title": f"{made['title']}, names with dots"}
    return json.dumps(made, sort_keys=True, indent=2) + "\n"


def _with_dots(part: Any, key: str = "") -> Any:
    if isinstance(part, dict):
        return {LABELS.get(name, name): _with_dots(value, name) for name, value in part.items()}
    if isinstance(part, list):
        return [_with_dots(item, key) for item in part]
    return dotted(part) if key in ("expr", "query", "legendFormat") and isinstance(part, str) else part


def alerts_with_dots() -> str:
    """The alerts for series under names with dots."""
    first, *others = ALERTS.read_text(encoding="utf-8").splitlines(keepends=True)
    made = "# Made by python -m dashboards.build from alerts.yaml, for series under names with dots.\n#\n" + first
    return made + "".join(line if line.lstrip().startswith("#") else dotted(line) for line in others)


def readme() -> str:
    """The page with the runbook of every alert."""
    page = README.read_text(encoding="utf-8").partition(MARK)[0] + MARK
    for name, rule in alerts().items():
        said, last = rule["annotations"], f", after {rule['for']}" if "for" in rule else ""
        what = _plain(f"{said['description']}\n\n{said['runbook']}")
        page += f"\n### {name}\n\nSeverity: {rule['labels']['severity']}{last}. {what}"
    return page


def _plain(text: str) -> str:
    """A template without its braces: RULE, POOL, HOOK or N in their place."""
    words = {"sessionwatch_rule": "RULE", POOL: "POOL", "sessionwatch_hook": "HOOK"}
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: words[found[1]], text)
    return re.sub(r"\{\{ \$value [^}]*\}\}", "N", text)


def files() -> dict[Path, str]:
    """What every file has to contain."""
    made = text()
    return {
        FILE: made,
        FOLDER / "sessionwatch-utf8.json": with_dots(made),
        FOLDER / "alerts-utf8.yaml": alerts_with_dots(),
        README: readme(),
    }


def _chooser(name: str, label: str, query: str) -> QueryVariable:
    """A variable with the values that a query of Grafana's finds; All also takes series that lack the label."""
    return (
        QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": query, "refId": f"{name}-values"})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(text="All", value="$__all"))
    )


def _label(name: str, title: str, label: str, expression: str) -> QueryVariable:
    """A variable with the values of a label, in both styles of names: ``label_values()`` takes no dots."""
    last = label.rpartition("_")[2]
    made = _chooser(name, title, f"query_result(group by ({label}) ({expression}))")
    return made.regex(f'/{last}"?="([^"]+)"/')


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content, encoding="utf-8")
