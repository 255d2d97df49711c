"""A service with 200 instances, as Prometheus would have it: ``python -m tests.e2e.crowd BUNDLE PICTURE`` draws it.

Nobody runs 200 workers for a picture: the series are written here, all that `sessionwatch.telemetry.table` names, and
`promtool` makes them a Prometheus's own.
"""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dashboards import picture, queries
from dashboards.names import series, underscored
from sessionwatch import rules
from sessionwatch.telemetry import table
from sessionwatch.telemetry.table import METRICS, Metric
from tests.e2e.observability import prometheus
from tests.tools import tool

INSTANCES = 200
SECONDS, EVERY = 64, 8  # of the samples: two of them are in `picture.WINDOW`, which is what a rate needs
PLACES = 5  # of each instance, out of 200
POOLS = ("shop", "reports", "shop-async")
SETS: Mapping[str, Sequence[str]] = {
    table.RULE: [rule.slug for rule in rules.ALL],
    table.MODE: ["telemetry"],
    table.HOOK: [table.SINK],
    table.OUTCOME: table.OUTCOMES,
    table.SESSION_KIND: table.SESSION_KINDS,
    table.LOAD_KIND: table.LOAD_KINDS,
    table.OPERATION: table.OPERATIONS,
    table.POOL: POOLS,
    table.STATE: table.STATES,
}
RARE = {"lost", "leaked", table.SINK, *SETS[table.RULE]}  # once in a while, in a few instances
GAUGES = {"db.client.connection.max": (15, 15), "sessionwatch.session.active": (0, 9)}  # the others: 0 to 5


def exposition(began: int, chance: random.Random) -> Iterator[str]:
    """All samples of all instances, in the words of OpenMetrics."""
    # as docs/production.md has it: each process has an id of its own
    instances = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(INSTANCES)]
    for metric in METRICS:
        name = underscored(series(metric))
        yield f"# TYPE {name.removesuffix('_total')} {'counter' if metric.kind == 'counter' else 'unknown'}\n"
        for instance in instances:
            own = list(_places(chance) if table.FILE in metric.attributes else _all_of(metric))
            for labels in own:
                yield from _samples(metric, {"job": "shop", "instance": instance} | labels, len(own), began, chance)
    yield "# EOF\n"


def _all_of(metric: Metric) -> Iterator[dict[str, str]]:
    """Every set of labels that a metric can have."""
    scope = {"otel_scope_name": table.SCOPE} if metric.name.startswith("db.") else {}
    for values in itertools.product(*(SETS[name] for name in metric.attributes)):
        yield scope | dict(zip(map(underscored, metric.attributes), values, strict=True))


def _places(chance: random.Random) -> Iterator[dict[str, str]]:
    for number in chance.sample(range(200), PLACES):
        part, rule = ("orders", "billing", "stock")[number % 3], SETS[table.RULE][number % len(SETS[table.RULE])]
        values = (rule, f"shop/{part}/views.py", f"shop.{part}.views.change_{number}", f"POST /{part}/{{id}}/{number}")
        yield dict(zip(map(underscored, (table.RULE, table.FILE, table.FUNCTION, table.UNIT)), values, strict=True))


def _samples(metric: Metric, labels: dict[str, str], of: int, began: int, chance: random.Random) -> Iterator[str]:
    """One series over all of the time; of a histogram, one per bucket."""
    rare = not RARE.isdisjoint(labels.values()) or metric.name.endswith("timeouts")
    each = float(chance.random() < 0.03) / SECONDS if rare else chance.choice((5, 10, 25)) / of  # per second
    bounds = [f"{bound:g}" for bound in metric.buckets] + ["+Inf"] if metric.kind == "histogram" else [""]
    middle = chance.randint(1, len(bounds) // 2 or 1)
    least, most = GAUGES.get(metric.name, (0, 5))
    for place, bound in enumerate(bounds):
        share = min(1.0, (place / middle) ** 2) if metric.buckets else 1.0
        own = labels | ({"le": bound} if bound else {})
        text = ",".join(f'{key}="{value}"' for key, value in own.items())
        for moment in range(0, SECONDS + 1, EVERY):
            value = chance.randint(least, most) if metric.kind == "up-down counter" else round(moment * each * share)
            yield f"{underscored(series(metric))}{{{text}}} {value} {began + moment}\n"


def answers(folder: Path) -> dict[str, Any]:
    """What a Prometheus that has all of it says to the queries of the dashboard."""
    end = int(time.time()) // picture.BARS * picture.BARS
    with (folder / "metrics").open("w") as file:
        file.writelines(exposition(end - SECONDS, random.Random(1)))
    command = [tool("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(folder / "metrics")]
    subprocess.run([*command, str(folder / "data")], check=True, stdout=subprocess.DEVNULL)
    with prometheus(folder, {}, queries.ALERTS, renamed={}) as server:
        return picture.answers(server.url, end - SECONDS, end)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        drawn = picture.draw(answers(Path(name)), Path(sys.argv[1]), Path(sys.argv[2]))
    for panel in drawn.panels:
        print(f"{panel.title}: {panel.text.splitlines()[1:]}")
