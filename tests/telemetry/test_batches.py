"""Samples that are recorded as a batch arrive as though each had been recorded by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics._internal import aggregation
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import DropAggregation, ExponentialBucketHistogramAggregation, View

from sessionwatch.telemetry import batches

VALUES = [0.5, 0.02, 7.0, 0.02, 3, -1.0, float("inf"), float("nan"), 0.0, 100.0]  # some of them no SDK takes
USUAL = [0.1, 0.5, 0.02, 7.0, 0.02, 3, 0.0, 10_000_000.0, 0.3, 100.0]
ATTRIBUTES = {"kind": "sync", "outcome": "committed"}


def _two_readers() -> tuple[MeterProvider, list[InMemoryMetricReader]]:
    readers = [InMemoryMetricReader(), InMemoryMetricReader({Histogram: AggregationTemporality.DELTA})]
    return MeterProvider(readers), readers


def _with(*views: View) -> Callable[[], tuple[MeterProvider, list[InMemoryMetricReader]]]:
    def made() -> tuple[MeterProvider, list[InMemoryMetricReader]]:
        reader = InMemoryMetricReader()
        return MeterProvider([reader], views=views), [reader]

    return made


SETUPS = {
    "one reader": _with(),
    "a total and a difference": _two_readers,
    "fewer attributes": _with(View(instrument_name="waits", attribute_keys={"kind"})),
    "no attributes": _with(View(instrument_name="waits", attribute_keys=set())),
    "two views": _with(
        View(instrument_name="waits", name="a"),
        View(instrument_name="waits", name="b", aggregation=ExponentialBucketHistogramAggregation()),
    ),
    "dropped": _with(View(instrument_name="waits", aggregation=DropAggregation())),
}


def _points(reader: InMemoryMetricReader) -> list[dict[str, Any]]:
    data = reader.get_metrics_data()
    found = []
    for resource in data.resource_metrics if data is not None else ():
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            for point in metric.data.data_points:
                told = {name: value for name, value in vars(point).items() if not name.endswith("time_unix_nano")}
                told["sum"] = repr(point.sum)  # of an older SDK it may be not a number, which equals nothing
                found.append({"name": metric.name, **told})
    return found


def _each(histogram: Any, attributes: dict[str, str], values: list[float]) -> None:
    for value in values:
        histogram.record(value, attributes)


def _exported(setup: Callable[[], Any], record: Callable[..., None], values: list[float]) -> list[Any]:
    """What the readers are told of: three batches, two series, and a collection in between."""
    provider, readers = setup()
    histogram = provider.get_meter("tests").create_histogram("waits", "s")
    record(histogram, ATTRIBUTES, values)
    record(histogram, ATTRIBUTES | {"outcome": "lost"}, values[:3])
    before = [_points(reader) for reader in readers]
    record(histogram, ATTRIBUTES, values[2:])
    after = [_points(reader) for reader in readers]
    provider.shutdown()
    return [*before, *after]


@pytest.mark.parametrize("values", [VALUES, USUAL], ids=["with odd ones", "usual ones"])
@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
def test_a_batch_is_told_as_its_samples_one_by_one(setup: Callable[[], Any], values: list[float]) -> None:
    """Whatever readers and views there are: counts, sums, extremes, buckets and attributes are the same."""
    assert _exported(setup, batches.record, values) == _exported(setup, _each, values)


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
def test_of_a_batch_only_the_first_sample_takes_the_long_way(setup: Callable[[], Any]) -> None:
    """On every set-up above this SDK tells where samples go; else the batch would not be any cheaper."""
    pytest.importorskip("opentelemetry.sdk.metrics._internal.exemplar", reason="an older SDK tells less")
    provider, _ = setup()
    histogram = provider.get_meter("tests").create_histogram("waits", "s")
    histogram.record(1.0, ATTRIBUTES)
    assert batches._aggregations(histogram, ATTRIBUTES)
    provider.shutdown()


def test_fixed_buckets_are_known() -> None:
    """Of this SDK: else a batch would not be any cheaper."""
    pytest.importorskip("opentelemetry.sdk.metrics._internal.exemplar", reason="an older SDK tells less")
    assert batches._has_known_buckets(aggregation._ExplicitBucketHistogramAggregation.aggregate)


def test_buckets_that_are_filled_otherwise_get_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is put into them where it is not known how."""
    kind, taken = aggregation._ExplicitBucketHistogramAggregation, []
    aggregate = kind.aggregate

    def aggregating(self: Any, measurement: Any, should_sample_exemplar: bool = True) -> None:
        taken.append(measurement.value)
        aggregate(self, measurement, *([should_sample_exemplar] if batches._is_told(aggregate) else []))

    monkeypatch.setattr(kind, "aggregate", aggregating)
    exported = _exported(_with(), batches.record, USUAL)
    assert taken == [*USUAL, *USUAL[:3], *USUAL[2:]]
    monkeypatch.undo()
    assert exported == _exported(_with(), _each, USUAL)


def test_examples_are_taken_where_the_sdk_wants_them_of_every_sample() -> None:
    """A filter that takes samples outside of spans too gets to see all of them."""
    exemplar = pytest.importorskip("opentelemetry.sdk.metrics._internal.exemplar", reason="an older SDK has none")
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], exemplar_filter=exemplar.AlwaysOnExemplarFilter())
    histogram = provider.get_meter("tests").create_histogram("waits", "s")
    batches.record(histogram, ATTRIBUTES, [1.0, 7.0, 30.0, 60.0, 80.0, 200.0])
    (point,) = _points(reader)
    assert sorted(example.value for example in point["exemplars"]) == [1.0, 7.0, 30.0, 60.0, 80.0, 200.0]
    provider.shutdown()


def test_without_an_sdk_a_batch_does_nothing() -> None:
    """The stand-ins of the API take it."""
    histogram = metrics.NoOpMeterProvider().get_meter("tests").create_histogram("waits", "s")
    batches.record(histogram, ATTRIBUTES, VALUES)
    assert batches._aggregations(histogram, ATTRIBUTES) is None


class _Foreign:
    """An instrument of an SDK that is built otherwise."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def record(self, value: float, attributes: dict[str, str]) -> None:
        self.taken.append(value)


def test_an_sdk_that_is_built_otherwise_gets_each_sample() -> None:
    """Nothing is taken for granted of what is not public."""
    foreign = _Foreign()
    batches.record(foreign, ATTRIBUTES, VALUES[:5])
    assert foreign.taken == VALUES[:5]
