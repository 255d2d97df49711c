"""Many samples of one series of a histogram.

The API takes one sample at a time, and an SDK spends nearly all of the time on finding out whose it is. So only the
first one of a batch goes that way. The others go straight to where it went; where that can't be told, they follow it.
"""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache, partial, reduce
from math import isfinite
from operator import add
from typing import Any

_FEW = 4  # up to which it is not worth looking
_EXAMPLE = "should_sample_exemplar"  # an older SDK takes every sample as an example
_OF_SPANS = ("TraceBasedExemplarFilter", "AlwaysOffExemplarFilter")  # take no sample outside of a span as an example
# What the SDK's code names that adds a sample to fixed buckets; then `_to_buckets` does the same.
_OF_BUCKETS = {"_lock", "_value", "_get_empty_bucket_counts", "value", "_sum", "_record_min_max", "_min", "min"}
_OF_BUCKETS |= {"_max", "max", "_boundaries", "bisect_left", "_sample_exemplar"}
Take = Callable[[Sequence[float]], None]


class _Sample:
    """What an aggregation reads of the SDK's `Measurement`, where it takes no example."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


def record(histogram: Any, attributes: dict[str, str], values: Sequence[float]) -> None:
    """Record the values, of which there is at least one, in their order; the current context is an empty one."""
    histogram.record(values[0], attributes)
    others = values[1:]
    straight = _aggregations(histogram, attributes) if len(others) >= _FEW and _are_taken(others) else None
    if straight is None:
        for value in others:
            histogram.record(value, attributes)
    else:
        for take in straight:
            take(others)


def _are_taken(values: Sequence[float]) -> bool:
    """Whether an SDK takes all of them; it says what it has against another one."""
    return min(values) >= 0.0 and isfinite(sum(values))


def _aggregations(histogram: Any, attributes: dict[str, str]) -> list[Take] | None:
    """Where samples with these attributes go: in each reader, for each view. None where that can't be told.

    Private: nothing public tells.
    """
    try:
        instrument = getattr(histogram, "_real_instrument", None) or histogram  # the API's stand-in has the SDK's
        consumer = instrument._measurement_consumer
        if type(consumer._sdk_config.exemplar_filter).__name__ not in _OF_SPANS or not _is_enabled(instrument):
            return None
        found: list[Take] = []
        for storage in consumer._reader_storages.values():
            for match in storage._get_or_init_view_instrument_match(instrument):
                kept = match._view._attribute_keys
                told = {name: value for name, value in attributes.items() if kept is None or name in kept}
                series = [one for one in list(match._attributes_aggregation.values()) if one._attributes == told]
                if len(series) != 1 or not _is_told(type(series[0]).aggregate):
                    return None
                known = _has_known_buckets(type(series[0]).aggregate)
                found.append(partial(_to_buckets if known else _one_by_one, series[0]))
        return found
    except Exception:  # another SDK, or another release of it
        return None


def _to_buckets(aggregation: Any, values: Sequence[float]) -> None:
    """What an aggregation with fixed buckets does for each sample, for all of them under its lock."""
    with aggregation._lock:
        if aggregation._value is None:
            aggregation._value = aggregation._get_empty_bucket_counts()
        counts, ordered, below = aggregation._value, sorted(values), 0
        for bucket, bound in enumerate(aggregation._boundaries):  # one search a bucket instead of one a sample
            upto = bisect_right(ordered, bound, below)
            counts[bucket] += upto - below
            below = upto
        counts[-1] += len(ordered) - below
        aggregation._sum = reduce(add, values, aggregation._sum)  # to the last digit as one by one
        if aggregation._record_min_max:
            aggregation._min = min(aggregation._min, ordered[0])
            aggregation._max = max(aggregation._max, ordered[-1])


def _one_by_one(aggregation: Any, values: Sequence[float]) -> None:
    sample = _Sample()
    for value in values:
        sample.value = value
        aggregation.aggregate(sample, False)


@lru_cache(32)
def _has_known_buckets(aggregate: Any) -> bool:
    return set(aggregate.__code__.co_names) == _OF_BUCKETS


@lru_cache(32)
def _is_told(aggregate: Any) -> bool:
    """Whether an aggregation is told by its caller that a sample is no example."""
    return _EXAMPLE in inspect.signature(aggregate).parameters


def _is_enabled(instrument: Any) -> bool:
    """Whether the SDK takes samples of it; one that is older can't switch an instrument off."""
    asked = getattr(instrument, "_is_enabled", None)
    return asked is None or bool(asked())
