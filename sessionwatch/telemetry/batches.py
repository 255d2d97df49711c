"""Many samples of one series of a histogram.

The API takes one sample at a time, and an SDK spends nearly all of the time on finding out whose it is. So only the
first one of a batch goes that way. The others go straight to where it went; where that can't be told, they follow it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import inf
from typing import Any

_FEW = 4  # up to which it is not worth looking
_EXAMPLE = "should_sample_exemplar"  # an older SDK takes every sample as an example
_OF_SPANS = ("TraceBasedExemplarFilter", "AlwaysOffExemplarFilter")  # take no sample outside of a span as an example


class _Sample:
    """What an aggregation reads of the SDK's `Measurement`, where it takes no example."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


def record(histogram: Any, attributes: dict[str, str], values: Sequence[float]) -> None:
    """Record the values, of which there is at least one, in their order; the current context is an empty one."""
    histogram.record(values[0], attributes)
    straight = _aggregations(histogram, attributes) if len(values) > _FEW else None
    sample = _Sample()
    for value in values[1:]:
        if straight is None or not 0.0 <= value < inf:  # the SDK says what it has against the latter
            histogram.record(value, attributes)
            continue
        sample.value = value
        for aggregate in straight:
            aggregate(sample, False)


def _aggregations(histogram: Any, attributes: dict[str, str]) -> list[Callable[[Any, bool], None]] | None:
    """Where a sample with these attributes goes: in each reader, for each view. None where that can't be told.

    Private: nothing public tells.
    """
    try:
        instrument = getattr(histogram, "_real_instrument", None) or histogram  # the API's stand-in has the SDK's
        consumer = instrument._measurement_consumer
        if type(consumer._sdk_config.exemplar_filter).__name__ not in _OF_SPANS or not _is_enabled(instrument):
            return None
        found = []
        for storage in consumer._reader_storages.values():
            for match in storage._get_or_init_view_instrument_match(instrument):
                kept = match._view._attribute_keys
                told = {name: value for name, value in attributes.items() if kept is None or name in kept}
                series = [one for one in list(match._attributes_aggregation.values()) if one._attributes == told]
                if len(series) != 1 or not _is_told(type(series[0]).aggregate):
                    return None
                found.append(series[0].aggregate)
        return found
    except Exception:  # another SDK, or another release of it
        return None


@lru_cache(32)
def _is_told(aggregate: Any) -> bool:
    """Whether an aggregation is told by its caller that a sample is no example."""
    return _EXAMPLE in inspect.signature(aggregate).parameters


def _is_enabled(instrument: Any) -> bool:
    """Whether the SDK takes samples of it; one that is older can't switch an instrument off."""
    asked = getattr(instrument, "_is_enabled", None)
    return asked is None or bool(asked())
