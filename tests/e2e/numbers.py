"""For each expression of the dashboard and the alerts: the number that it shows, and the one the client counted."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dashboards import queries
from dashboards.rows import LOADING, LOSING
from sessionwatch import rules
from sessionwatch.telemetry.table import POOL_SECONDS
from tests.e2e.fleet import Fleet
from tests.e2e.traffic import PLACES

STEP = 10  # seconds of a bar
ADVICE = {rule.slug for rule in rules.ALL if rule.severity == "advice"}
Numbers = dict[str, float]  # by the label values that tell series apart
LIMITS = {"shop": 15, "reports": 1, "shop-async": 15}  # of one worker


@dataclass
class Line:
    """One expression: what it shows, what it has to show, and how near."""

    name: str
    shown: Numbers
    counted: Numbers
    sign: str
    agrees: bool

    def __str__(self) -> str:
        mark = "  " if self.agrees else "! "
        return f"{mark}{self.name:58} shown {_text(self.shown)}\n{'':61}{self.sign} {_text(self.counted)}"


Want = Callable[[str, Numbers], Line]


def equal(counted: Mapping[str, float]) -> Want:
    """The same numbers; a series of 0 may be missing."""
    return _near(counted, 1e-9, "=")


def about(counted: Mapping[str, float]) -> Want:
    """Within a tenth: Prometheus extrapolates rates to the edges of their time."""
    return _near(counted, 0.1, "~")


def per_second(fleet: Fleet, counted: Mapping[str, float]) -> Want:
    """The counts over the time of the traffic."""
    return lambda name, shown: about({key: number / fleet.window for key, number in counted.items()})(name, shown)


def at_most(counted: Mapping[str, float]) -> Want:
    """For what a client cannot count: numbers above 0, and not above a bound; of as many series."""
    return lambda name, shown: Line(
        name, shown, dict(counted), "<", bool(shown) and all(0 <= shown[key] <= counted[key] for key in shown)
    )


def up_to(counted: Mapping[str, float]) -> Want:
    """Not above a bound; a series may be missing."""
    return lambda name, shown: Line(name, shown, dict(counted), "<", all(shown[key] <= counted[key] for key in shown))


def summed(counted: float) -> Want:
    """Parts, which together are this number."""
    return lambda name, shown: Line(name, shown, {"": counted}, "=", sum(shown.values()) == counted)


def _near(counted: Mapping[str, float], tolerance: float, sign: str) -> Want:
    def compare(name: str, shown: Numbers) -> Line:
        keys = {*shown, *counted}
        near = all(math.isclose(shown.get(key, 0), counted.get(key, 0), rel_tol=tolerance) for key in keys)
        return Line(name, shown, dict(counted), sign, near)

    return compare


def bucket(seconds: float) -> float:
    """The upper bound of the bucket that holds these seconds: a quantile lies anywhere in its bucket."""
    return next((bound for bound in POOL_SECONDS if bound >= seconds), POOL_SECONDS[-1])


def _text(numbers: Numbers) -> str:
    return ", ".join(f"{key} {value:g}".strip() for key, value in sorted(numbers.items()) if value) or "0"


def lines(fleet: Fleet) -> Iterator[Line]:
    """All of them, after all of the traffic: first the panels, then the alerts."""
    end = fleet.prometheus.moment(fleet.living)
    began = end - STEP * math.ceil((end - fleet.began) / STEP)
    fleet.window = end - began
    counted = panels(fleet)
    for panel in queries.panels():
        for target in panel["targets"]:
            name = queries.name_of(panel, target)
            yield counted.pop(name)(name, _shown(fleet, panel, target, began, end))
    assert not counted, f"no such expression: {counted.keys()}"
    for name, rule in queries.alerts().items():
        samples = fleet.prometheus.query(rule["expr"], end)
        want = up_to if name == "SessionwatchPoolExhausted" else equal
        yield want(alerts(fleet)[name])(name, {_key(labels): value for labels, value in samples})


def _shown(fleet: Fleet, panel: dict[str, Any], target: dict[str, Any], began: int, end: int) -> Numbers:
    """What the panel shows of a query: bars added up, and of anything else the last value."""
    over = STEP if "interval" in panel else end - began
    values = {"job": "shop", "instance": ".*", "__range": f"{end - began}s", **queries.CHOICES}
    values |= {"__interval": f"{over}s", "__rate_interval": f"{over}s"}
    text = queries.filled(target["expr"], values)
    if "interval" in panel:
        series = fleet.prometheus.range(text, began + STEP, end, STEP)
        return {_key(labels): sum(numbers) for labels, numbers in series}
    samples = fleet.prometheus.query(text, end)  # no number: a quantile of what did not grow since the first scrape
    return {_key(labels): value for labels, value in samples if not math.isnan(value)}


def _key(labels: dict[str, str]) -> str:
    return " ".join(labels[name] for name in sorted(labels) if name not in ("job", "__name__", "code_file_path"))


def panels(fleet: Fleet) -> dict[str, Want]:
    """What has to come, by the name of the expression."""
    expected, sessions = fleet.expected, float(sum(fleet.expected.closed.values()))
    found, outcomes, kinds = Counter(expected.findings), Counter[str](), Counter[str]()
    for (outcome, kind), number in expected.closed.items():
        outcomes[outcome] += number
        kinds[kind] += number
    faults = sum(number for rule, number in found.items() if rule not in ADVICE)
    return {
        "Faults, __auto": equal({"": faults}),
        "Advice, __auto": equal({"": found.total() - faults}),
        "Sessions lost, __auto": equal({"": outcomes["lost"]}),
        "Sessions leaked, __auto": equal({"": outcomes["leaked"]}),
        "Pool timeouts, __auto": equal({"": expected.timeouts}),
        "Errors of sessionwatch, __auto": equal({"": len(fleet.told)}),
        "Sessions ended, __auto": equal({"": sessions}),
        "Workers that report, __auto": equal({"": fleet.size}),
        "Findings by rule, {{sessionwatch_rule}}": equal(found),
        "Findings over time, {{sessionwatch_rule}}": equal(found),
        "Places, A": equal({place: found[rule] for rule, place in PLACES.items() if found[rule]}),
        "Places, B": at_most({place: 1000 * (time.time()) for rule, place in PLACES.items() if found[rule]}),
        "Workers with the most faults, {{instance}}": summed(faults),
        "Active sessions, {{sessionwatch_session_kind}}": equal({}),
        "Outcomes, {{sessionwatch_outcome}}": about({name: number / sessions for name, number in outcomes.items()}),
        "Sessions opened and closed, opened": per_second(fleet, {"": sessions}),
        "Sessions opened and closed, closed": per_second(fleet, {"": sessions}),
        "Sessions lost or leaked, {{sessionwatch_outcome}}": equal(
            {name: outcomes[name] for name in ("lost", "leaked")}
        ),
        "Findings about writes and sessions, {{sessionwatch_rule}}": equal(_some(found, LOSING)),
        "Findings about loading, {{sessionwatch_rule}}": equal(_some(found, LOADING)),
        "Rows written, {{db_operation_name}}": per_second(fleet, expected.rows),
        "Rows written, flushes": per_second(fleet, {"": expected.flushes}),
        "Lazy loads, {{sessionwatch_load_kind}}": per_second(fleet, expected.loads),
        "Lazy loads per session, lazy loads per session": about({"": expected.loads.total() / sessions}),
        **_quantiles(fleet),
        **_pools(fleet),
    }


def _some(found: Counter[str], wanted: str) -> Numbers:
    return {rule: found[rule] for rule in wanted.split("|")}


def _quantiles(fleet: Fleet) -> dict[str, Want]:
    """Nothing lasted longer than all of it together, start of the workers included, where they wait for each other."""
    seconds = {"": time.time() - fleet.began}
    pools = dict.fromkeys(LIMITS, bucket(seconds[""]))
    made = {
        f"{title} duration, p{share}": at_most(seconds)
        for title in ("Session", "Transaction")
        for share in (50, 95, 99)
    }
    made |= {f"Statements per session, p{share}": at_most({"": 10.0}) for share in (50, 95)}
    titles = ("Time to make a connection", "Time until a connection is there", "Time a connection is in use")
    label = "{{db_client_connection_pool_name}}"
    return made | {f"{title}, p{share} {label}": at_most(pools) for title in titles for share in (50, 95)}


def _pools(fleet: Fleet) -> dict[str, Want]:
    """What SQLAlchemy's pools say of themselves, in all workers together."""
    states, made = Counter[str](), fleet.made_by_the_dead.copy()
    for worker in fleet.workers.values():
        for name, pool in worker.pools().items():
            states.update({f"{name} {state}": pool[state] for state in ("idle", "used")})
            made[name] += pool["made"]
    label, limits = "{{db_client_connection_pool_name}}", {name: most * fleet.size for name, most in LIMITS.items()}
    return {
        f"Connections, {label} {{{{db_client_connection_state}}}}": equal(states),
        f"Connections, {label} limit": equal(limits),
        f"Fullest worker, {label}": equal({name: states[f"{name} used"] / LIMITS[name] for name in LIMITS}),
        f"Waiting for a connection, {label}": equal({}),
        f"Timeouts, {label}": equal({"reports": fleet.expected.timeouts}),
        f"Connections made, {label}": equal(made),
    }


def alerts(fleet: Fleet) -> dict[str, Numbers]:
    """What each alert compares with its limit; nothing where it stays silent."""
    found = Counter(fleet.expected.findings)
    own = {"lost-writes", "session-leak"}
    return {
        "SessionwatchLostWrites": {"lost-writes": found["lost-writes"]},
        "SessionwatchSessionLeak": {"session-leak": found["session-leak"]},
        "SessionwatchFault": {rule: number for rule, number in found.items() if rule not in ADVICE | own},
        "SessionwatchAdvice": {rule: number for rule, number in found.items() if rule in ADVICE},
        "SessionwatchPoolTimeouts": {"reports": fleet.expected.timeouts},
        # one request at a time, which may wait for a moment: of each process, the one that was killed included
        "SessionwatchPoolExhausted": dict.fromkeys(LIMITS, fleet.size + 1.0),
        "SessionwatchSilent": {},
        "SessionwatchNothingReports": {},
        "SessionwatchInternalErrors": {"sink": len(fleet.told)},
    }
