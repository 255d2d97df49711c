"""A service in telemetry mode under known traffic, as Prometheus and OTLP collectors see it.

The expressions are those of the dashboard and of the alerts, word for word.
"""

from __future__ import annotations

import math
import re
from collections import Counter

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from dashboards import queries
from tests.e2e.observability import Prometheus, texts
from tests.e2e.observed import RENAMED, Observed, by
from tests.e2e.programs import eventually, settled
from tests.e2e.traffic import Expected

pytestmark = [pytest.mark.e2e, pytest.mark.postgresql]
WINDOW = "1h"  # of every rate: the whole test, however slow the machine is


def without_data(server: Prometheus, expressions: dict[str, str]) -> set[str]:
    """The names of those expressions that Prometheus answers with nothing, or with nothing but NaN."""
    return {
        name for name, text in expressions.items() if not any(not math.isnan(value) for _, value in server.query(text))
    }


def test_every_expression_of_the_dashboard_has_data(observed: Observed) -> None:
    """No panel would be empty."""
    assert without_data(observed.prometheus, queries.expressions("shop", ".*", WINDOW)) == set()


def test_what_the_alerts_measure_is_there(observed: Observed) -> None:
    """Each alert compares something with its limit; an expression over a metric that is not there never fires."""
    measured = {name: queries.measured(rule["expr"]) for name, rule in queries.alerts().items()}
    assert without_data(observed.prometheus, measured) == set()


def test_a_renamed_metric_is_noticed(observed: Observed) -> None:
    """Where one metric comes under another name, the same checks name exactly the expressions that read it."""
    expressions = queries.expressions("renamed", ".*", WINDOW)
    readers = {name for name, text in expressions.items() if RENAMED in queries.metrics(text)}
    assert readers
    assert without_data(observed.prometheus, expressions) == readers
    measured = queries.measured(queries.alerts()["SessionwatchFault"]["expr"])
    assert without_data(observed.prometheus, {"alert": f'({measured}) and on (job) up{{job="renamed"}}'}) == {"alert"}


def test_every_alert_was_raised(observed: Observed) -> None:
    """The traffic has a reason for each but silence; the one that has to last for minutes is pending at least."""
    seen = observed.prometheus.query('count by (alertname) (count_over_time(ALERTS{job="shop"}[1h]))')
    silent = {"SessionwatchSilent", "SessionwatchNothingReports"}
    assert by(seen, "alertname").keys() == queries.alerts().keys() - silent


def test_the_runbooks_are_filled_in(observed: Observed) -> None:
    """Every template of a firing alert found its label, and the places are those of the service."""
    firing = observed.prometheus.alerts("shop")
    places = {
        "LostWrites": "telemetry_service.get_db, POST /orders/lost (2)",
        "SessionLeak": "telemetry_service.forget_session, GET /orders/1/forgotten (2)",
        "Fault": "telemetry_service.read_too_late, GET /orders/1/late (2)",
    }
    for name, place in places.items():
        assert place in firing[f"Sessionwatch{name}"]["annotations"]["places"]
    for alert in firing.values():
        text = " ".join(alert["annotations"].values())
        assert "shop" in text
        assert not re.search(r"\{\{|<error|<no value>|  of ", text)


def test_the_variables_offer_the_service_and_its_instance(observed: Observed) -> None:
    """What Grafana looks up for the choices at the top of the dashboard."""
    metric = "sessionwatch_sessions_opened_total"
    assert observed.prometheus.label_values("job", metric) == ["renamed", "shop"]
    assert len(observed.prometheus.label_values("instance", f'{metric}{{job=~"shop"}}')) == 1


def test_the_totals_in_prometheus_are_those_of_the_traffic(observed: Observed) -> None:
    """Sessions by outcome and kind, rows by operation, lazy loads by kind, findings by rule, flushes."""
    server, expected = observed.prometheus, observed.expected
    outcome, kind = "sessionwatch_outcome", "sessionwatch_session_kind"
    closed = server.query('sessionwatch_sessions_closed_total{job="shop"}')
    assert {(labels[outcome], labels[kind]): value for labels, value in closed if value} == expected.closed
    assert by(server.query('sessionwatch_rows_written_total{job="shop"}'), "db_operation_name") == expected.rows
    assert by(server.query('sessionwatch_lazy_loads_total{job="shop"}'), "sessionwatch_load_kind") == expected.loads
    assert by(server.query('sessionwatch_findings_total{job="shop"}'), "sessionwatch_rule") == expected.findings
    assert server.number('sessionwatch_flushes_total{job="shop"}') == expected.flushes
    assert server.number('sum(db_client_connection_timeouts_total{job="shop"})') == expected.timeouts >= 2
    for every in ("sessions_opened_total", "session_duration_seconds_count", "session_statements_count"):
        assert server.number(f'sum(sessionwatch_{every}{{job="shop"}})') == sum(expected.closed.values())


def test_the_panels_numbers_are_those_of_the_traffic(observed: Observed) -> None:
    """The first finding of each rule is seen as an increase, because its counter was there with 0 before."""
    text = queries.expressions("shop", ".*", WINDOW)["Findings by rule, {{sessionwatch_rule}}"]
    shown = {rule: round(value) for rule, value in by(observed.prometheus.query(text), "sessionwatch_rule").items()}
    assert shown == observed.expected.findings


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_the_totals_over_otlp_are_those_of_the_traffic(observed: Observed, transport: str) -> None:
    """A real collector forwards the same counts, under OpenTelemetry's own names."""
    received, expected = getattr(observed, f"over_{transport}"), observed.expected
    wanted = {
        ("sessionwatch.sessions.closed", "sessionwatch.outcome"): by_outcome(expected),
        ("sessionwatch.findings", "sessionwatch.rule"): expected.findings,
        ("sessionwatch.lazy_loads", "sessionwatch.load.kind"): expected.loads,
        ("sessionwatch.rows.written", "db.operation.name"): expected.rows,
    }

    def totals() -> dict[tuple[str, str], dict[str, float]]:
        return {key: {name: value for name, value in received.totals(*key).items() if value} for key in wanted}

    assert settled(totals, wanted) == wanted
    assert received.latest()["sessionwatch.session.duration"].unit == "s"


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_every_session_is_a_span_of_its_request(observed: Observed, transport: str) -> None:
    """One span a session comes through the collector, as a child of a span of the service in the same trace."""
    received, sessions = getattr(observed, f"over_{transport}"), sum(observed.expected.closed.values())

    def of_sessions() -> dict[bytes, tuple[str, Span]] | None:
        spans = received.spans()
        found = [span for scope, span in spans.values() if scope == "sessionwatch"]
        # the span of a request ends after those of its sessions, and may come in another batch
        return spans if len(found) >= sessions and all(span.parent_span_id in spans for span in found) else None

    spans = eventually(of_sessions, observed.prometheus.program)
    found = [span for scope, span in spans.values() if scope == "sessionwatch"]
    assert Counter(texts(span)["sessionwatch.outcome"] for span in found) == by_outcome(observed.expected)
    parents = [spans[span.parent_span_id] for span in found]
    assert "sessionwatch" not in {scope for scope, _ in parents}
    assert [span.trace_id for span in found] == [parent.trace_id for _, parent in parents]


def by_outcome(expected: Expected) -> Counter[str]:
    counted: Counter[str] = Counter()
    for (outcome, _), number in expected.closed.items():
        counted[outcome] += number
    return counted


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_every_kind_of_finding_is_a_log_record_of_its_request(observed: Observed, transport: str) -> None:
    """Each has its rule and its line in the service, and belongs to a trace of it; so does the story of a pool."""
    received = getattr(observed, f"over_{transport}")

    def told() -> tuple[set[str], bool]:
        """The rules, and whether the traces of all records have come."""
        records, traces = received.records(), {span.trace_id for _, span in received.spans().values()}
        rules = {texts(record).get("sessionwatch.rule", "a pool") for record in records}
        return rules, all(record.trace_id in traces for record in records)

    wanted = ({*observed.expected.findings, "a pool"}, True)
    assert settled(told, wanted) == wanted
    for record in received.records():
        if "sessionwatch.rule" in texts(record):
            assert texts(record)["code.file.path"].endswith("telemetry_service.py")
        else:
            assert "telemetry_service.py" in record.body.string_value  # who holds its connections
