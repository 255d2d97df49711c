"""The dashboard and the alerts read the metrics that sessionwatch has, under the names that Prometheus gives them."""

from __future__ import annotations

import re

from dashboards import queries
from dashboards.names import series, underscored
from sessionwatch.telemetry.table import METRICS

EXPRESSIONS = [*queries.expressions().values(), *(rule["expr"] for rule in queries.alerts().values())]
NOT_SHOWN = {"db_client_connection_idle_max", "db_client_connection_idle_min"}  # what a pool is set to
READ = {name for expression in EXPRESSIONS for name in queries.metrics(expression)}


def test_all_that_is_counted_is_shown_and_all_that_is_shown_is_counted() -> None:
    """Every metric is on the dashboard, and no expression reads one that does not exist."""
    assert {underscored(series(metric)) for metric in METRICS} - NOT_SHOWN == READ


def test_labels_are_attributes() -> None:
    """An expression selects and groups by attributes of the metrics it reads, beside Prometheus's own labels."""
    for expression in EXPRESSIONS:
        known = {
            underscored(name)
            for metric in METRICS
            if underscored(series(metric)) in queries.metrics(expression)
            for name in metric.attributes
        }
        used = re.findall(r"(\w+)(?==~|!~|!=|=\")", expression)
        used += [name for text in re.findall(r"(?:by|ignoring) \(([^)]*)\)", expression) for name in text.split(", ")]
        assert set(used) <= known | {"job", "instance", "le", "otel_scope_name"}
