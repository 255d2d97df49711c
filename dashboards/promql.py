"""The expressions that the panels are made of. A number is exact: see `happened`."""

from __future__ import annotations

SELECTED = 'job=~"$job", instance=~"$instance"'
OURS = 'otel_scope_name="sessionwatch"'  # other instrumentations have metrics of pools under the same names
POOL = "db_client_connection_pool_name"
BEFORE = "1h"  # for so long before a window a series counts as known


def series(name: str, *matchers: str) -> str:
    """A metric of the service, the instances and the pools that are chosen at the top of the dashboard."""
    own = (OURS, f'{POOL}=~"$pool"') if name.startswith("db_client_") else ()
    return f"{name}{{{', '.join([SELECTED, *own, *matchers])}}}"


def per_second(name: str, *matchers: str, by: str = "") -> str:
    """How often something happens, in all instances together."""
    return f"{_sum(by)}(rate({series(name, *matchers)}[$__rate_interval]))"


def happened(name: str, *matchers: str, by: str = "", over: str = "$__range") -> str:
    """How many times something happened ``over`` a time.

    ``increase()`` alone misses what a series is born with, and extrapolates. So: what the counter has now less what it
    had before that time; or all that it has, if it is new or began again before the time's first sample. Only one that
    began again within, as of a process that was restarted under the same name, counts with its ``increase()``.
    """
    chosen = series(name, *matchers)
    now, before = f"last_over_time({chosen}[{over}])", f"last_over_time({chosen}[{BEFORE}] offset {over})"
    grown = f"({now} - ({before} <= min_over_time({chosen}[{over}]))) or {now}"
    return f"{_sum(by)}((({grown}) unless (resets({chosen}[{over}]) > 0)) or round(increase({chosen}[{over}])))"


def last_seen(name: str, *matchers: str, by: str) -> str:
    """When a counter grew last, or began, in milliseconds since the epoch, to one step of the panel."""
    chosen = series(name, *matchers)
    grew = f"(timestamp({chosen}) unless ({chosen} == last_over_time({chosen}[15m] offset $__interval)))"
    return f"1000 * max by ({by}) (max_over_time({grew}[$__range:$__interval]) or {grew})"


def quantiles(histogram: str, *shares: float, by: str = "") -> dict[str, str]:
    """Quantiles of a histogram; the legend names the share, and the label that they are grouped by."""
    labels = f"le, {by}" if by else "le"
    rate = per_second(f"{histogram}_bucket", by=labels)
    suffix = f" {{{{{by}}}}}" if by else ""
    return {f"p{share * 100:g}{suffix}": f"histogram_quantile({share}, {rate})" for share in shares}


def _sum(by: str) -> str:
    return f"sum by ({by}) " if by else "sum"
