"""The instruments of one meter provider, and the way of a count to whoever collects.

Counters and up-down counters are observable: they read plain integers when somebody collects. Histograms
are recorded in batches. Only the API of OpenTelemetry is used; without an SDK all of it does nothing.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.metrics import CallbackOptions, Observation, _internal

from .._version import __version__
from .table import METRICS, SCHEMA_URL, SCOPE, Metric

KEY = "_sessionwatch_instruments"  # where a meter provider keeps its own
Attributes = tuple[tuple[str, str], ...]  # of one series
Values = dict[Attributes, int]
_unmarked: list[tuple[Any, Instruments]] = []  # those of providers that take no attribute


class Totals:
    """What this process has counted, over all installations, and how much of it was exported.

    An installation's own counters end with it; an exported count must never go back.
    """

    def __init__(self) -> None:
        self.read: Callable[[str], Values] | None = None  # by metric: what the installation has counted
        self.before: Callable[[], None] | None = None  # to be called when a collection begins
        self.instruments: Instruments | None = None  # those that export
        self.lock = threading.RLock()
        self._carried: dict[str, Values] = {}
        self._claimed: dict[str, Values] = {}

    def counted(self, name: str) -> Values:
        """The total of each series of a counter; never less than before."""
        values = dict(self._carried.get(name, {}))
        for series, value in (self.read(name) if self.read is not None else {}).items():
            values[series] = values.get(series, 0) + value
        claimed = self._claimed.setdefault(name, {})
        for series, value in claimed.items():
            values[series] = max(values.get(series, 0), value)
        claimed.update(values)
        return values

    def begin(self, read: Callable[[str], Values], before: Callable[[], None]) -> None:
        """An installation counts from now on."""
        with self.lock:
            self.read, self.before = read, before

    def end(self, read: Callable[[str], Values]) -> None:
        """An installation has ended; its counts stay."""
        with self.lock:
            if self.read != read:
                return
            for metric in METRICS:
                if metric.kind == "counter":
                    carried = self._carried.setdefault(metric.name, {})
                    for series, value in read(metric.name).items():
                        carried[series] = carried.get(series, 0) + value
            self.read = self.before = None

    def export_by(self, instruments: Instruments) -> None:
        """From now on by these: they go on where the ones before them were, and where they were themselves."""
        with self.lock:
            for name, claimed in self._claimed.items():
                told = instruments.told.get(name, {})
                instruments.offset[name] = {series: value - told.get(series, 0) for series, value in claimed.items()}
            self.instruments = instruments

    def forked(self, provider: Any) -> None:
        """In a forked child: all counts are the parent's. What the child inherited of an SDK goes on with it.

        An SDK that exports differences subtracts what it was told last, in the parent: the child's counts are
        told on top of that. One that exports totals is told the child's alone.
        """
        self.lock = threading.RLock()
        self._carried.clear()
        self._claimed.clear()
        instruments = self.instruments
        if instruments is not None:
            told, instruments.told, instruments.offset = instruments.told, {}, {}
            if exports_differences(provider):
                for name, values in told.items():
                    instruments.offset[name] = {series: -value for series, value in values.items()}


TOTALS = Totals()


class Instruments:
    """The instruments that one meter provider made, once. They outlive installations: none can be taken back."""

    def __init__(self, provider: Any) -> None:
        self.told: dict[str, Values] = {}
        self.offset: dict[str, Values] = {}
        self.histograms: dict[str, Any] = {}
        meter = provider.get_meter(SCOPE, __version__, SCHEMA_URL)
        for metric in METRICS:
            if metric.kind == "histogram":
                self.histograms[metric.name] = _histogram(meter, metric)
            elif metric.kind == "counter":
                callback = self._counting(metric.name)
                meter.create_observable_counter(metric.name, [callback], metric.unit, metric.description)
            else:
                callback = self._measuring(metric.name)
                meter.create_observable_up_down_counter(metric.name, [callback], metric.unit, metric.description)

    def _counting(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(options: CallbackOptions) -> Iterable[Observation]:
            self._begins()
            with TOTALS.lock:
                if TOTALS.instruments is not self:
                    return []
                offset = self.offset.get(name, {})
                values = {series: value - offset.get(series, 0) for series, value in TOTALS.counted(name).items()}
                self.told[name] = values
            return [Observation(value, dict(series)) for series, value in values.items()]

        return callback

    def _measuring(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(options: CallbackOptions) -> Iterable[Observation]:
            self._begins()
            with TOTALS.lock:
                if TOTALS.instruments is not self or TOTALS.read is None:
                    return []
                values = TOTALS.read(name)
            return [Observation(value, dict(series)) for series, value in values.items()]

        return callback

    def _begins(self) -> None:
        before = TOTALS.before
        if before is not None and TOTALS.instruments is self:
            before()


def of_provider(provider: Any) -> Instruments:
    """The instruments of a meter provider, made at the first time.

    Those that were made by the API's stand-in, before there was an SDK, are the SDK's once it is there.
    """
    kept = getattr(provider, "__dict__", {}).get(KEY) or next((own for one, own in _unmarked if one is provider), None)
    if kept is None:
        kept = _of_stand_in(provider) or Instruments(provider)
        try:
            setattr(provider, KEY, kept)
        except Exception:  # has slots
            _unmarked.append((provider, kept))
    return kept


def is_stand_in(provider: Any) -> bool:
    """Whether it is what the API has in place of a provider, before one is set."""
    return provider is not None and provider is getattr(_internal, "_PROXY_METER_PROVIDER", None)


def _of_stand_in(provider: Any) -> Instruments | None:
    stand_in = getattr(_internal, "_PROXY_METER_PROVIDER", None)  # private: nothing public tells whose it has become
    if stand_in is None or getattr(stand_in, "_real_meter_provider", None) is not provider:
        return None
    kept: Instruments | None = vars(stand_in).get(KEY)
    return kept


def exports_differences(provider: Any) -> bool:
    """Whether a reader of an SDK's provider prefers delta temporality for counters. Private: nothing public tells."""
    config = getattr(provider, "_sdk_config", None)
    readers: Any = getattr(provider, "_metric_readers", None) or getattr(config, "metric_readers", ())
    for reader in readers:
        for kind, temporality in getattr(reader, "_instrument_class_temporality", {}).items():
            if kind.__name__.lstrip("_") == "ObservableCounter" and temporality.name == "DELTA":
                return True
    return False


def _histogram(meter: Any, metric: Metric) -> Any:
    parameters = inspect.signature(meter.create_histogram).parameters
    if "explicit_bucket_boundaries_advisory" in parameters:  # since 1.30; an older one needs a View
        return meter.create_histogram(
            metric.name, metric.unit, metric.description, explicit_bucket_boundaries_advisory=list(metric.buckets)
        )
    return meter.create_histogram(metric.name, metric.unit, metric.description)
