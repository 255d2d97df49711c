"""Builds ``sessionwatch.json``: ``python -m dashboards.build`` (needs the extra ``dashboards``).

The file imports into Grafana 11 and later. It is committed, and a test holds it equal to what this makes.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from .rows import rows
from .style import SOURCE

TARGET = Path(__file__).with_name("sessionwatch.json")
EVERYWHERE = "sessionwatch_sessions_opened_total"  # a metric that every watched process has


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
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_chooser("job", "Service", f"label_values({EVERYWHERE}, job)"))
        .with_variable(_chooser("instance", "Instance", f'label_values({EVERYWHERE}{{job=~"$job"}}, instance)'))
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
        for name in ("auto", "auto_count", "auto_min"):  # of an interval; the SDK gives them to every variable
            del variable[name]
    return json.dumps(made, sort_keys=True, indent=2) + "\n"


def _chooser(name: str, label: str, query: str) -> QueryVariable:
    """A variable with the values of a label; All also takes series that lack the label."""
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


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
