"""What the dashboard shows, row by row; each panel's description says what to do about what it shows."""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.builders import timeseries
from grafana_foundation_sdk.builders.common import TableSortByFieldState
from grafana_foundation_sdk.builders.dashboard import DashboardLink, Row

from sessionwatch import rules

from .promql import POOL, happened, last_seen, per_second, quantiles, series
from .style import Panel, bars, colored, column, events, explore, lines, number, rows_of, stacked

FINDINGS = "sessionwatch_findings_total"
PLACES = "sessionwatch_findings_places_total"
CLOSED = "sessionwatch_sessions_closed_total"
OPENED = "sessionwatch_sessions_opened_total"
LOADS = "sessionwatch_lazy_loads_total"
ERRORS = "sessionwatch_internal_errors_total"
TIMEOUTS = "db_client_connection_timeouts_total"
COUNT, MOST = "db_client_connection_count", "db_client_connection_max"
CREATED = "db_client_connection_create_time_seconds"
RULE, OUTCOME, KIND = "sessionwatch_rule", "sessionwatch_outcome", "sessionwatch_session_kind"
LOAD, STATE, UNIT = "sessionwatch_load_kind", "db_client_connection_state", "sessionwatch_unit"
FILE, FUNCTION = "code_file_path", "code_function_name"
OPERATION = "db_operation_name"
OUTCOMES = {"committed": "green", "read_only": "blue", "rolled_back": "orange", "lost": "red", "leaked": "purple"}
LOSING = "lost-writes|session-leak|use-after-close|swallowed-error|split-unit-of-work|long-session"
LOADING = "n-plus-one|implicit-io|detached-access|blocking-io"
ADVICE = "|".join(rule.slug for rule in rules.ALL if rule.severity == "advice")
FAULTS, ADVICES = f'{RULE}!~"{ADVICE}"', f'{RULE}=~"{ADVICE}"'

FIRST = "It leaves out what a worker measured before its first export."  # said of every quantile

# One colour per rule in all panels: reds for writes, purples for leaks, and so on; what is left goes by turns.
NAMED = {
    "lost-writes": "red",
    "session-leak": "purple",
    "n-plus-one": "blue",
    "detached-access": "orange",
    "blocking-io": "yellow",
    "split-unit-of-work": "light-blue",
    "long-session": "light-purple",
    "use-after-close": "dark-orange",
    "swallowed-error": "dark-red",
    "implicit-io": "dark-yellow",
}
TURNS = ("green", "dark-green", "light-green", "dark-blue", "semi-dark-purple", "light-red", "super-light-orange")
TURNS += ("semi-dark-yellow", "super-light-blue", "semi-dark-orange", "super-light-green", "super-light-purple", "text")
_REST = [rule.slug for rule in rules.ALL if rule.slug not in NAMED]
COLORS = NAMED | dict(zip(_REST, TURNS, strict=True))


def rows() -> Iterator[tuple[Row, list[Panel]]]:
    """The rows in their order, each with its panels."""
    yield Row("Health at a glance"), list(_health())
    yield Row("Where"), list(_where())
    yield Row("Lifetimes"), list(_lifetimes())
    yield Row("Lost writes and leaks"), list(_losses())
    yield Row("Lazy loads and N+1"), list(_loads())
    yield Row("Connection pools"), list(_pool())


def _health() -> Iterator[Panel]:
    yield number(
        "Faults",
        "Findings of rules that report faults, in the time shown. The target is 0. Where it is red, the table in the "
        "row Where names the places; each has a log record of the logger `sessionwatch` with the lines and a fix.",
        happened(FINDINGS, FAULTS),
        width=3,
    )
    yield number(
        "Advice",
        "Findings of rules that only advise, such as `n-plus-one`: nothing is wrong yet. Look at them when you work on "
        "the service, in the row Where.",
        happened(FINDINGS, ADVICES),
        width=3,
        target_zero=False,
    )
    yield number(
        "Sessions lost",
        "Sessions that ended with writes that were neither committed nor rolled back: data is missing. Take the rule "
        "`lost-writes` in the row Where; its log record names the line that wrote and the one that closed.",
        happened(CLOSED, f'{OUTCOME}="lost"'),
        width=3,
    )
    yield number(
        "Sessions leaked",
        "Sessions that ended because the garbage collector found them, or the program ended. Those that are still "
        "referenced are findings of `session-leak` already: take that rule in the row Where.",
        happened(CLOSED, f'{OUTCOME}="leaked"'),
        width=3,
    )
    yield number(
        "Pool timeouts",
        "Requests that got no connection in time and failed. A log record has every session that held one; see the row "
        "Connection pools.",
        happened(TIMEOUTS),
        width=3,
    )
    yield number(
        "Errors of sessionwatch",
        "Failures of sessionwatch itself, or of a callback that it was given. The service is not affected, but "
        "something is not counted: the first of each kind is in the log with its traceback; please report it.",
        happened(ERRORS),
        width=3,
    ).no_value("0")
    yield number(
        "Sessions ended",
        "How many sessions there were in the time shown, to compare the other numbers with. If it is 0, nothing is "
        "watched: check that `install()` runs in every worker and that Prometheus reaches them.",
        happened(CLOSED),
        width=3,
        target_zero=False,
    )
    yield number(
        "Workers that report",
        "Processes that have sent metrics in the last minutes. If it is lower than the number of workers that run, "
        "some are not watched, or several export under one identity: give each its own `service.instance.id`.",
        f"count(count by (job, instance) ({series(OPENED)}))",
        width=3,
        target_zero=False,
    )
    yield colored(
        bars(
            "Findings by rule",
            "Every rule that is on, also those without a finding. `sessionwatch explain RULE` prints what it reports, "
            "why it matters, and a bad and a good example.",
            f"{{{{{RULE}}}}}",
            f"sort_desc({happened(FINDINGS, by=RULE)})",
            width=12,
            height=12,
        ),
        COLORS,
    )
    yield _findings(
        "Findings over time",
        "When they happened. A step at a deployment points to the release; a steady trickle to one code path; a burst "
        "together with pool timeouts to a shortage of connections.",
        width=12,
    ).height(12)


def _findings(title: str, description: str, *matchers: str, width: int = 8) -> Panel:
    """Findings by rule over time, each rule in its colour; those without one are left out."""
    counted = happened(FINDINGS, *matchers, by=RULE, over="$__interval")
    return colored(events(title, description, {f"{{{{{RULE}}}}}": f"{counted} > 0"}, width=width), COLORS)


def _where() -> Iterator[Panel]:
    labels, route = f"job, {RULE}, {FILE}, {FUNCTION}, {UNIT}", f'{UNIT}=~"$route"'
    table = rows_of(
        "Places",
        "Where findings come from: the function that a finding points to, and the route or task that ran it. Start "
        "with the first line; a click on its rule opens the log records or the traces of it. At most 200 places are "
        "kept per process; the rest is `other`.",
        {
            "count": f"sort_desc({happened(PLACES, route, by=labels)} > 0)",
            "seen": last_seen(PLACES, route, by=labels),
        },
        {
            RULE: "Rule",
            FILE: "File",
            FUNCTION: "Function",
            UNIT: "Route",
            "Value #A": "Count",
            "Value #B": "Last seen",
            "job": "Service",
        },
        width=18,
    )
    colors = {slug: {"color": color, "index": place} for place, (slug, color) in enumerate(COLORS.items())}
    links = [_logs(), _traces()]
    column(
        table,
        "Rule",
        mappings=[{"type": "value", "options": colors}],
        custom__cellOptions={"type": "color-text"},
        custom__width=170,
        links=[link.build() for link in links],
    )
    column(table, "Function", custom__width=300)
    column(table, "Count", custom__width=80, decimals=0)
    column(table, "Last seen", unit="dateTimeFromNow", custom__width=130)
    column(table, "Service", custom__width=100)
    yield table.sort_by([TableSortByFieldState().display_name("Count").desc(True)])
    yield bars(
        "Workers with the most faults",
        "The ten worst. One worker alone points to its host, its release or its data; all alike to the code. To look "
        "at one, choose it at the top.",
        "{{instance}}",
        f"sort_desc(topk(10, {happened(FINDINGS, FAULTS, by='instance')}))",
        width=6,
        height=10,
    )


def _logs() -> DashboardLink:
    """The log records of one place, as Loki has them from OpenTelemetry: attributes are structured metadata."""
    chosen = "sessionwatch_rule=`${__data.fields.Rule}` | code_function_name=`${__data.fields.Function}`"
    return explore("Log records of this place", "logs", {"expr": f'{{service_name=~".+"}} | {chosen}'})


def _traces() -> DashboardLink:
    """Traces with a session that had a finding of this rule, as Tempo has them."""
    chosen = '{name="sessionwatch.session" && span.sessionwatch.findings="${__data.fields.Rule}"}'
    return explore("Traces with this rule", "traces", {"queryType": "traceql", "query": chosen})


def _lifetimes() -> Iterator[Panel]:
    yield _quantiles(
        "Session duration",
        "From the first to the last moment of a session. A p99 far above the request duration means that sessions "
        "outlive their unit of work: open them later, close them earlier.",
        "s",
        quantiles("sessionwatch_session_duration_seconds", 0.5, 0.95, 0.99),
    )
    yield _quantiles(
        "Transaction duration",
        "How long transactions are open: for so long they hold a connection and their locks. Where it grows, look for "
        "calls to other services, or waiting, between the first statement and the commit.",
        "s",
        quantiles("sessionwatch_transaction_duration_seconds", 0.5, 0.95, 0.99),
    )
    yield _quantiles(
        "Statements per session",
        "How many statements a session sends. A p95 that grows with the data is a query in a loop; see the row Lazy "
        "loads and N+1.",
        "short",
        quantiles("sessionwatch_session_statements", 0.5, 0.95),
    )
    yield lines(
        "Active sessions",
        "Sessions that are open now. It should follow the load and fall back with it; if it only grows, sessions are "
        "leaked, or kept where they should be made for each unit of work.",
        "short",
        {f"{{{{{KIND}}}}}": f"sum by ({KIND}) ({series('sessionwatch_session_active')})"},
    ).decimals(0)
    yield colored(
        stacked(
            "Outcomes",
            "How sessions end. Lost and leaked should never show. Where rolled back grows, so do errors: see the "
            "service's own log. Much read only is fine.",
            "percentunit",
            {
                f"{{{{{OUTCOME}}}}}": f"{per_second(CLOSED, by=OUTCOME)} / ignoring({OUTCOME}) group_left () "
                f"{per_second(CLOSED)}"
            },
        ).max(1),
        OUTCOMES,
    )
    yield lines(
        "Sessions opened and closed",
        "The two lines should lie on each other. Where more are opened than closed, sessions are leaked or piling up.",
        "ops",
        {"opened": per_second(OPENED), "closed": per_second(CLOSED)},
    )


def _losses() -> Iterator[Panel]:
    yield colored(
        events(
            "Sessions lost or leaked",
            "Each bar is data that is missing or a connection that is held. Roll back the release that began "
            "it; the log names the lines.",
            {f"{{{{{OUTCOME}}}}}": happened(CLOSED, f'{OUTCOME}=~"lost|leaked"', by=OUTCOME, over="$__interval")},
        ),
        {name: OUTCOMES[name] for name in ("lost", "leaked")},
    )
    yield _findings(
        "Findings about writes and sessions",
        "Lost writes, leaks, use after close, swallowed errors, split units of work and long transactions. Take each "
        "rule by itself: `sessionwatch explain RULE`.",
        f'{RULE}=~"{LOSING}"',
    )
    yield lines(
        "Rows written",
        "Rows that flushes and statements wrote. If it drops while the traffic does not, writes are missing: compare "
        "with the sessions lost.",
        "wps",
        {f"{{{{{OPERATION}}}}}": per_second("sessionwatch_rows_written_total", by=OPERATION)}
        | {"flushes": per_second("sessionwatch_flushes_total")},
    )


def _loads() -> Iterator[Panel]:
    yield lines(
        "Lazy loads",
        "Queries that reading an attribute caused: a relationship, a deferred column, an instance that a commit "
        "expired. Load what is needed with the query (`selectinload`, `joinedload`, `undefer`).",
        "rps",
        {f"{{{{{LOAD}}}}}": per_second(LOADS, by=LOAD)},
    )
    yield lines(
        "Lazy loads per session",
        "The average over all sessions. It should stay flat while the data grows; where it grows with it, there is an "
        "N+1 even if no line reaches the threshold of the rule.",
        "short",
        {"lazy loads per session": f"{per_second(LOADS)} / {per_second(CLOSED)}"},
    )
    yield _findings(
        "Findings about loading",
        "N+1, implicit IO under asyncio, reads after the session's end, blocking IO on an event loop. The log record "
        "names the query and the loader option that it needs.",
        f'{RULE}=~"{LOADING}"',
    )


def _pool() -> Iterator[Panel]:
    for width, panel in zip((9, 5, 5, 5), _pool_now(), strict=True):  # the first has three lines for each pool
        yield panel.span(width)
    for panel in _pool_times():
        yield panel.span(6)


def _pool_now() -> Iterator[timeseries.Panel]:
    yield lines(
        "Connections",
        "Per pool, in use and idle, in all workers together: so many connections the database has to bear. In use at "
        "the limit means that requests wait: shorten the transactions first, then raise `pool_size`.",
        "short",
        {f"{{{{{POOL}}}}} {{{{{STATE}}}}}": f"sum by ({POOL}, {STATE}) ({series(COUNT)})"}
        | {f"{{{{{POOL}}}}} limit": f"sum by ({POOL}) ({series(MOST)})"},
    ).decimals(0)
    yield lines(
        "Fullest worker",
        "Per pool, the worker that uses the largest share of its own limit; pools without a limit are not shown. At 1 "
        "its next request waits, however empty the pools of the others are: spread the load, or raise `pool_size`.",
        "percentunit",
        {
            f"{{{{{POOL}}}}}": f"max by ({POOL}) (sum by (job, instance, {POOL}) ("
            f"{series(COUNT, f'{STATE}={chr(34)}used{chr(34)}')})"
            f" / (sum by (job, instance, {POOL}) ({series(MOST)}) > 0))"
        },
    )
    yield lines(
        "Waiting for a connection",
        "Requests that wait for a connection now. Above 0 for longer than a moment the pool is too small for what the "
        "transactions hold; see who holds them in the log.",
        "short",
        {f"{{{{{POOL}}}}}": f"sum by ({POOL}) ({series('db_client_connection_pending_requests')})"},
    ).decimals(0)
    yield events(
        "Timeouts",
        "Each one is a request that failed, because no connection came back within `pool_timeout`. A log record has "
        "every session that held one at that moment.",
        {f"{{{{{POOL}}}}}": happened(TIMEOUTS, by=POOL, over="$__interval")},
    )


def _pool_times() -> Iterator[timeseries.Panel]:
    yield events(
        "Connections made",
        "How many connections each pool opened. A burst at a start is normal; one that never ends means that they are "
        "not kept: the load is above `pool_size` (overflow is closed when it comes back), `pool_recycle` is short, or "
        "the database or a proxy drops them.",
        {f"{{{{{POOL}}}}}": happened(f"{CREATED}_bucket", 'le="+Inf"', by=POOL, over="$__interval")},
    )
    yield _times(
        "Time to make a connection",
        "From the call of the driver until the connection is open. Where it grows, look at the network, the name "
        "server, TLS, or a database that is at its limit of connections.",
        CREATED,
    )
    yield _times(
        "Time until a connection is there",
        "Getting one from the pool, or making a new one. Milliseconds are normal; a p95 near `pool_timeout` comes "
        "before timeouts.",
        "db_client_connection_wait_time_seconds",
    )
    yield _times(
        "Time a connection is in use",
        "From taking a connection out of the pool to giving it back: the work in between, and whatever else the code "
        "waits for meanwhile. To serve the same load with fewer connections, shorten this.",
        "db_client_connection_use_time_seconds",
    )


def _times(title: str, description: str, histogram: str) -> timeseries.Panel:
    """The quantiles of a histogram of the pool."""
    return _quantiles(title, description, "s", quantiles(histogram, 0.5, 0.95, by=POOL))


def _quantiles(title: str, description: str, unit: str, queries: dict[str, str]) -> timeseries.Panel:
    """Quantiles over time, which begin with the second export of a series: its first value is no rate yet."""
    return lines(title, f"{description} {FIRST}", unit, queries)
