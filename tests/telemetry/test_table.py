"""The table of the metrics, its page, and the names that Prometheus sees."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from prometheus_client import REGISTRY, generate_latest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch.model import MODES
from sessionwatch.telemetry.table import METRICS, OUTCOMES, SCHEMA_URL
from tests import metric_table
from tests.models import create
from tests.rules.models import Customer
from tests.telemetry.readings import Readings

ADVISED = "explicit_bucket_boundaries_advisory" in inspect.signature(Meter.create_histogram).parameters


def test_the_page_is_what_is_generated() -> None:
    """A new metric, bucket or setting changes the page: python -m tests.metric_table > docs/telemetry.md."""
    assert metric_table.PAGE.read_text(encoding="utf-8") == metric_table.page()


def test_every_attribute_has_its_values_on_the_page() -> None:
    """And the page has no attribute that no metric has."""
    assert set(metric_table.VALUES) == {name for metric in METRICS for name in metric.attributes}


def test_names_units_and_buckets() -> None:
    """Names are unique; only histograms have buckets, as floats that grow."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"[a-z_.]+", metric.name)
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert all(type(bound) is float for bound in metric.buckets)
        assert metric.description.endswith(".")
        assert "|" not in metric.description


def test_pools_have_every_metric_of_the_conventions() -> None:
    """Names, kinds and units are those of OpenTelemetry's own package, and so is the address of the schema."""
    schemas = pytest.importorskip("opentelemetry.semconv.schemas")  # not in what `nox -s lowest` has
    if SCHEMA_URL not in {schema.value for schema in schemas.Schemas}:
        pytest.skip("the package is older than the conventions that the table follows")
    conventions = importlib.import_module("opentelemetry.semconv._incubating.metrics.db_metrics")
    meter = MeterProvider().get_meter("conventions")
    names = [name for name in vars(conventions) if name.startswith("DB_CLIENT_CONNECTION_")]
    wanted = [getattr(conventions, f"create_{name.lower()}")(meter) for name in names]
    kinds = {"counter": "Counter", "up-down counter": "UpDownCounter", "histogram": "Histogram"}
    ours = {metric.name: (kinds[metric.kind], metric.unit) for metric in METRICS if metric.name.startswith("db.")}
    assert ours == {one.name: (type(one).__name__.lstrip("_"), one.unit) for one in wanted}


def test_outcomes_are_those_of_a_record() -> None:
    """What a session's record can say of its end, and what the counters begin with."""
    from sessionwatch.record.life import SessionRecord
    from sessionwatch.record.tracker import Tracker

    for function in (SessionRecord.outcome, Tracker._seed):
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        words = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert set(OUTCOMES) <= words


@pytest.mark.skipif(not ADVISED, reason="an exporter of that time names units in another way")
def test_prometheus_sees_these_names(engine: Engine) -> None:
    """As its exporter writes them: the dashboards and alerts are made with them."""
    reader = PrometheusMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    try:
        with sessionwatch.watching("telemetry", log=False) as watch:
            watch.telemetry.use(provider)
            create(engine, Customer)
            with Session(engine) as session, session.begin():
                session.add(Customer(name="Ada"))
            text = generate_latest(REGISTRY).decode()
    finally:
        provider.shutdown()
    ours = {line.partition("{")[0] for line in text.splitlines() if line.startswith(("sessionwatch_", "db_client_"))}
    assert {
        "sessionwatch_findings_total",
        "sessionwatch_sessions_opened_total",
        "sessionwatch_sessions_closed_total",
        "sessionwatch_session_active",
        "sessionwatch_session_duration_seconds_bucket",
        "sessionwatch_session_statements_bucket",
        "sessionwatch_transaction_duration_seconds_bucket",
        "sessionwatch_lazy_loads_total",
        "sessionwatch_flushes_total",
        "sessionwatch_rows_written_total",
        "db_client_connection_count",
        "db_client_connection_max",
        "db_client_connection_pending_requests",
        "db_client_connection_timeouts_total",
        "db_client_connection_wait_time_seconds_bucket",
        "db_client_connection_use_time_seconds_bucket",
    } <= ours


def test_histograms_have_the_buckets_of_the_table(engine: Engine) -> None:
    """By the API's advice where it takes one, else by the view that the page shows."""
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    histograms = [metric for metric in METRICS if metric.kind == "histogram"]
    views = [
        View(instrument_name=metric.name, aggregation=ExplicitBucketHistogramAggregation(metric.buckets))
        for metric in histograms
    ]
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False, views=() if ADVISED else views)
    with sessionwatch.watching("telemetry", log=False) as watch:
        watch.telemetry.use(provider)
        with Session(engine) as session:
            session.connection()
        found = Readings(reader, provider).metrics()
    provider.shutdown()
    for metric in histograms:
        assert tuple(found[metric.name].data.data_points[0].explicit_bounds) == metric.buckets, metric.name


def test_values_of_the_page_are_those_of_the_program() -> None:
    """The modes are named elsewhere; the page must not lag behind."""
    assert metric_table.VALUES["sessionwatch.mode"] == ", ".join(MODES)
