"""The page of the metrics: what the table in `sessionwatch.telemetry.table` says of each.

``python -m tests.metric_table > docs/telemetry.md`` writes the page; a test compares it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sessionwatch.config import GENERAL
from sessionwatch.record.counts import MANY
from sessionwatch.telemetry import table
from sessionwatch.telemetry.table import METRICS, Metric

PAGE = Path(__file__).parent.parent / "docs" / "telemetry.md"

HEAD = f"""\
# Metrics

Made by `python -m tests.metric_table > docs/telemetry.md` from `sessionwatch/telemetry/table.py`: not typed.

Every installation exports these through the API of OpenTelemetry, scope `{table.SCOPE}`, to the global meter provider,
whether it was set before or after `install()`. Without an SDK nothing is exported. The metrics of pools
(`db.client.connection.…`), and lazy loads where the rule `n-plus-one` is off, are counted in mode `telemetry` only.
In mode `off`, and with every rule off in a mode that is not `telemetry`, nothing is counted and there is no metric.
"""

MEANING = f"""\
## What is counted

- A finding counts each time that it occurs, repeated ones too, unless an allowance or the baseline covers it.
- Counters and gauges exist, at zero, from the first export on: findings of each rule that is on, every outcome and
  kind, every pool. So the first event is a step, which `increase()` sees. A pool is there from `create_engine()` on, or
  from `install()` on where the engine was made before. Histograms have no series before their first sample.
- `sessionwatch.findings.places` counts the same occurrences by place, and has no series before there is a finding: it
  says where, for an alert or a table; alerts fire on `sessionwatch.findings`. Its sum for a rule is that rule's sum.
- A session is opened when it is made, or used again after its close; one from before the installation when it is
  used. It is closed when it is closed, reset, invalidated, or collected.
- `sessionwatch.outcome` of a session: `lost` (it ended with uncommitted writes), `leaked` (collected, or open at the
  end of its unit or of the program, with its connection), `committed` (it committed at least once), `rolled_back` (it
  rolled back, or an exception ended it, and it committed nothing), else `read_only`. That of a transaction is how this
  one ended.
- Metrics, spans and findings say the same of a session. One that is reported as a leak while it is open counts as
  closed with the outcome `leaked` from then on, once, whatever becomes of it; it is active until it ends. One that is
  open when the program ends counts as closed then. One that lost writes and leaked has two findings and is `lost`.
  `lost-writes` also tells of Core connections, and of objects that were expunged before a flush: those belong to no
  session's outcome. An allowance or the baseline covers findings; the outcome still says what happened.
- A statement is what SQLAlchemy executes: one for many rows, as a flush sends, counts once, however many batches the
  driver gets.
- Rows are those that statements inserted, updated or deleted, also where they were rolled back, as far as the driver
  tells. Lazy loads, flushes and rows of a session that is still open are included.
- A connection that was out at the installation is counted once it is back. A pool is named by
  `pool_logging_name`, else `host:port/database`, never by a user or a password; another engine on the same database
  gets a number. After 100 names, pools are `other`.
- Counters go on over several installations in a process. A forked child counts its own. That is true of counters also
  where the child inherits an SDK; but such an SDK's histograms, as those of any instrumentation, may hold what the
  parent had not exported: set up the SDK in the child.

Counters are read when a reader collects. Samples of histograms wait, in a queue a series of at most 65,536, and are
recorded in batches: by the session or the checkout of a connection that finds {MANY} of one series, or when a reader
collects; a session that ends inside the SDK records nothing. They belong to no span: there are no exemplars.
"""

BUCKETS = """\
## Buckets

Upper bounds, given to the SDK as advice (`explicit_bucket_boundaries_advisory`). Before 1.30 OpenTelemetry does not
take it, and has bounds of its own; set a view then:

<!-- illustration: the readers are the program's own -->
```python
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from sessionwatch.telemetry.table import METRICS

views = [
    View(instrument_name=metric.name, aggregation=ExplicitBucketHistogramAggregation(metric.buckets))
    for metric in METRICS
    if metric.kind == "histogram"
]
provider = MeterProvider(metric_readers=[...], views=views)
```
"""


def page() -> str:
    """The whole page, as Markdown."""
    rows = [
        [f"`{metric.name}`", metric.kind, f"`{metric.unit}`", _attributes(metric), metric.description]
        for metric in METRICS
    ]
    buckets = [[f"`{metric.name}`", ", ".join(map(str, metric.buckets))] for metric in METRICS if metric.buckets]
    settings = [
        [f"`{name}`", str(option.default), option.help]
        for name, option in GENERAL.items()
        if "telemetry.models" in name
    ]
    return "\n".join(
        [
            HEAD,
            *_table(["metric", "kind", "unit", "attributes", "description"], rows),
            "",
            "## Attributes",
            "",
            "All of them are closed sets, but for the places of findings: at most 200, then `other`.",
            "",
            *_table(["attribute", "values"], [[f"`{name}`", values] for name, values in VALUES.items()]),
            "",
            MEANING,
            "## Models",
            "",
            "Models and attributes are on `sessionwatch.lazy_loads` only where that was asked for, as",
            "`sessionwatch.model` and `sessionwatch.attribute`:",
            "",
            *_table(["setting", "default", ""], settings),
            "",
            BUCKETS,
            *_table(["histogram", "upper bounds"], buckets),
            "",
        ]
    )  # fmt: skip


VALUES = {
    table.RULE: "the rules' names, see [the rules](rules.md)",
    table.MODE: "log, strict, telemetry",
    table.OUTCOME: ", ".join(table.OUTCOMES),
    table.SESSION_KIND: ", ".join(table.SESSION_KINDS),
    table.LOAD_KIND: ", ".join(table.LOAD_KINDS),
    table.OPERATION: ", ".join(table.OPERATIONS),
    table.FILE: "the file that a finding points to",
    table.FUNCTION: "its function with the module in front, `shop.orders.Cart.pay`",
    table.UNIT: "the unit of work: a route's template, a task's name; `(none)` outside of one",
    table.POOL: "names of pools, at most 100 and `other`",
    table.STATE: ", ".join(table.STATES),
    table.HOOK: "`rule` and a rule's name, `sink` for any output, `hook` for all else; the log and `status()` name it",
}


def _attributes(metric: Metric) -> str:
    return ", ".join(f"`{name}`" for name in metric.attributes)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]


if __name__ == "__main__":
    sys.stdout.write(page())
