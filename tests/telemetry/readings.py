"""What a reader of the SDK sees, by metric and by series."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, MetricsData

Series = tuple[str, ...]  # the values of a series' attributes, in the order of their names


@dataclass
class Readings:
    """A reader in memory and its provider."""

    reader: InMemoryMetricReader
    provider: MeterProvider
    _seen: dict[str, Any] = field(default_factory=dict)

    def metrics(self) -> dict[str, Any]:
        """Collect; the metrics of the scope ``sessionwatch`` by name.

        An old SDK leaves out a histogram that took nothing since the last time: it is still what it was.
        """
        found = metrics_of(self.reader.get_metrics_data())
        totals = {name: one for name, one in found.items() if _is_total_of_histogram(one)}
        self._seen |= totals
        return found | self._seen

    def values(self, name: str) -> dict[Series, Any]:
        """Collect; the values of one metric that are not zero, by series. A histogram's are its counts."""
        return values_of(self.metrics().get(name))

    def sums(self, name: str) -> dict[Series, float]:
        """Collect; a histogram's sums, by series."""
        metric = self.metrics().get(name)
        return {_series(point): point.sum for point in metric.data.data_points} if metric is not None else {}


def _is_total_of_histogram(metric: Any) -> bool:
    points, temporality = metric.data.data_points, getattr(metric.data, "aggregation_temporality", None)
    return bool(points) and hasattr(points[0], "bucket_counts") and temporality == AggregationTemporality.CUMULATIVE


def metrics_of(data: MetricsData | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            if scope.scope.name == "sessionwatch":
                assert not {metric.name for metric in scope.metrics} & set(found), "a metric is exported twice"
                found |= {metric.name: metric for metric in scope.metrics}
    return found


def values_of(metric: Any) -> dict[Series, Any]:
    if metric is None:
        return {}
    points = {_series(point): getattr(point, "count", None) for point in metric.data.data_points}
    for point in metric.data.data_points:
        if points[_series(point)] is None:
            points[_series(point)] = point.value
    assert len(points) == len(metric.data.data_points), "a series is exported twice"
    return {series: value for series, value in points.items() if value}


def all_series(readings: Readings, name: str) -> set[Series]:
    """Collect; every series of a metric, those at zero too."""
    metric = readings.metrics().get(name)
    return {_series(point) for point in metric.data.data_points} if metric is not None else set()


def _series(point: Any) -> Series:
    return tuple(str(value) for _, value in sorted(point.attributes.items()))
