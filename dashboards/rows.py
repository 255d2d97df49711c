"""What the dashboard shows, row by row; each panel's description says what to do about what it shows."""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.builders.dashboard import Row

from .style import Panel, bars, colored, events, happened, lines, number, per_second, quantiles, series, stacked

FINDINGS = "sessionwatch_findings_total"
CLOSED = "sessionwatch_sessions_closed_total"
LOADS = "sessionwatch_lazy_loads_total"
ERRORS = series("sessionwatch_internal_errors_total")
TIMEOUTS = "db_client_connection_timeouts_total"
RULE, OUTCOME, KIND = "sessionwatch_rule", "sessionwatch_outcome", "sessionwatch_session_kind"
LOAD, POOL, STATE = "sessionwatch_load_kind", "db_client_connection_pool_name", "db_client_connection_state"
OPERATION = "db_operation_name"
OUTCOMES = {"committed": "green", "read_only": "blue", "rolled_back": "orange", "lost": "red", "leaked": "purple"}
LOSING = "lost-writes|session-leak|use-after-close|swallowed-error|split-unit-of-work|long-session"
LOADING = "n-plus-one|implicit-io|detached-access|blocking-io"


def rows() -> Iterator[tuple[Row, list[Panel]]]:
    """The rows in their order, each with its panels."""
    yield Row("Health at a glance"), list(_health())
    yield Row("Lifetimes"), list(_lifetimes())
    yield Row("Lost writes and leaks"), list(_losses())
    yield Row("Lazy loads and N+1"), list(_loads())
    yield Row("Connection pool"), list(_pool())


def _health() -> Iterator[Panel]:
    yield number(
        "Findings",
        "Faults that sessionwatch found in the time shown. The target is 0. Where it is red, the bars below name the "
        "rule, and the records of the logger `sessionwatch` the lines.",
        happened(FINDINGS),
    )
    yield number(
        "Sessions lost",
        "Sessions that ended with writes that were neither committed nor rolled back: data is missing. Look up the "
        "`lost-writes` records in the log; each names the line that wrote and the one that closed.",
        happened(CLOSED, f'{OUTCOME}="lost"'),
    )
    yield number(
        "Sessions leaked",
        "Sessions that nobody closed: each keeps a connection until the garbage collector comes by. The `session-leak` "
        "records in the log name the line that opened them.",
        happened(CLOSED, f'{OUTCOME}="leaked"'),
    )
    yield number(
        "Pool timeouts",
        "Requests that got no connection in time and failed. The pool's error and the log list every session that held "
        "one; see the row Connection pool.",
        happened(TIMEOUTS),
    )
    yield number(
        "Errors of sessionwatch",
        "Failures inside of sessionwatch itself, or of a callback that it was given. The service is not affected, but "
        "something is not counted: the first of each kind is in the log with its traceback; please report it.",
        # a series begins with the first error of a hook: increase() alone would not see that one
        f"sum(({ERRORS} unless {ERRORS} offset $__range) or increase({ERRORS}[$__range]))",
    ).no_value("0")
    yield number(
        "Sessions ended",
        "How many sessions there were in the time shown, to compare the other numbers with. If it is 0, nothing is "
        "watched: check that `install()` runs in every worker and that Prometheus reaches them.",
        happened(CLOSED),
        target_zero=False,
    )
    yield bars(
        "Findings by rule",
        "Every rule that is on, also those without a finding. `sessionwatch explain RULE` prints what it reports, why "
        "it matters, and a bad and a good example.",
        f"{{{{{RULE}}}}}",
        happened(FINDINGS, by=RULE),
        width=12,
        height=12,
    )
    yield events(
        "Findings over time",
        "When they happened. A step at a deployment points to the release; a steady trickle to one code path; a burst "
        "together with pool timeouts to a shortage of connections.",
        {f"{{{{{RULE}}}}}": f"{happened(FINDINGS, by=RULE, over='$__rate_interval')} > 0"},
        width=12,
    ).height(12)


def _lifetimes() -> Iterator[Panel]:
    yield lines(
        "Session duration",
        "From the first to the last moment of a session. A p99 far above the request duration means that sessions "
        "outlive their unit of work: open them later, close them earlier.",
        "s",
        quantiles("sessionwatch_session_duration_seconds", 0.5, 0.95, 0.99),
    )
    yield lines(
        "Transaction duration",
        "How long transactions are open: for so long they hold a connection and their locks. Where it grows, look for "
        "calls to other services, or waiting, between the first statement and the commit.",
        "s",
        quantiles("sessionwatch_transaction_duration_seconds", 0.5, 0.95, 0.99),
    )
    yield lines(
        "Statements a session",
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
        {"opened": per_second("sessionwatch_sessions_opened_total"), "closed": per_second(CLOSED)},
    )


def _losses() -> Iterator[Panel]:
    yield colored(
        events(
            "Sessions lost or leaked",
            "Each bar is data that is missing or a connection that is held. Roll back the release that began "
            "it; the log names the lines.",
            {f"{{{{{OUTCOME}}}}}": happened(CLOSED, f'{OUTCOME}=~"lost|leaked"', by=OUTCOME, over="$__rate_interval")},
        ),
        {name: OUTCOMES[name] for name in ("lost", "leaked")},
    )
    yield events(
        "Findings about writes and sessions",
        "Lost writes, leaks, use after close, swallowed errors, split units of work and long transactions. "
        "Take each rule by itself: `sessionwatch explain RULE`.",
        {f"{{{{{RULE}}}}}": happened(FINDINGS, f'{RULE}=~"{LOSING}"', by=RULE, over="$__rate_interval")},
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
        "Lazy loads a session",
        "The average over all sessions. It should stay flat while the data grows; where it grows with it, there is an "
        "N+1 even if no line reaches the threshold of the rule.",
        "short",
        {"lazy loads a session": f"{per_second(LOADS)} / {per_second(CLOSED)}"},
    )
    yield events(
        "Findings about loading",
        "N+1, implicit IO under asyncio, reads after the session's end, blocking IO on an event loop. The log record "
        "names the query and the loader option that it needs.",
        {f"{{{{{RULE}}}}}": happened(FINDINGS, f'{RULE}=~"{LOADING}"', by=RULE, over="$__rate_interval")},
    )


def _pool() -> Iterator[Panel]:
    yield lines(
        "Connections",
        "Connections in use and idle, and the most that the pools may have. In use at the limit means that requests "
        "wait: shorten the transactions first, then raise `pool_size`.",
        "short",
        {f"{{{{{STATE}}}}}": f"sum by ({STATE}) ({series('db_client_connection_count')})"}
        | {"limit": f"sum({series('db_client_connection_max')})"},
    ).decimals(0)
    yield lines(
        "Waiting for a connection",
        "Requests that wait for a connection now. Above 0 for longer than a moment the pool is too small for what the "
        "transactions hold; see who holds them in the log.",
        "short",
        {f"{{{{{POOL}}}}}": f"sum by ({POOL}) ({series('db_client_connection_pending_requests')})"},
    ).decimals(0)
    yield events(
        "Timeouts",
        "Each one is a request that failed, because no connection came back within `pool_timeout`. The log lists "
        "every session that held one at that moment.",
        {f"{{{{{POOL}}}}}": happened(TIMEOUTS, by=POOL, over="$__rate_interval")},
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


def _times(title: str, description: str, histogram: str) -> Panel:
    """The quantiles of a histogram of the pool."""
    return lines(title, description, "s", quantiles(histogram, 0.5, 0.95, by=POOL), width=12)
