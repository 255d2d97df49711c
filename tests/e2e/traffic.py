"""What is asked of ``tests/programs/telemetry_service.py``, and what each request makes sessionwatch count."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

COMMITTED, READ_ONLY, ROLLED_BACK = ("committed", "sync"), ("read_only", "sync"), ("rolled_back", "sync")


@dataclass(frozen=True)
class Kind:
    """A kind of request: what it is answered, and what one of them adds to the counters."""

    method: str
    path: str
    status: int
    sessions: tuple[tuple[str, str], ...] = ()  # outcome and kind of each session
    rows: dict[str, int] = field(default_factory=dict)
    loads: dict[str, int] = field(default_factory=dict)
    findings: dict[str, int] = field(default_factory=dict)
    flushes: int = 0
    timeouts: int = 0


KINDS = {
    "order": Kind("POST", "/orders", 201, (COMMITTED,), {"INSERT": 3}, {"expired": 1}, flushes=1),
    "count": Kind("GET", "/orders/count", 200, (READ_ONLY,)),
    "async count": Kind("GET", "/async/orders/count", 200, (("read_only", "async"),)),
    "refused": Kind("POST", "/orders/refused", 409, (ROLLED_BACK,), {"INSERT": 1}, flushes=1),
    "lost": Kind("POST", "/orders/lost", 201, (("lost", "sync"),), {"INSERT": 1}, {}, {"lost-writes": 1}, 1),
    "articles": Kind("GET", "/orders/articles", 200, (READ_ONLY,), {}, {"relationship": 5}, {"n-plus-one": 1}),
    "note": Kind("GET", "/orders/1/note", 200, (READ_ONLY,), {}, {"deferred": 1}),
    "rename": Kind("POST", "/orders/1/rename", 200, (COMMITTED,), {"UPDATE": 1}, {"expired": 1}, flushes=1),
    "late": Kind("GET", "/orders/1/late", 200, (READ_ONLY,), {}, {}, {"detached-access": 1}),
    "forgotten": Kind("GET", "/orders/1/forgotten", 200, (("leaked", "sync"),), {}, {}, {"session-leak": 1}),
    "blocking": Kind("GET", "/async/orders/blocking", 200, (READ_ONLY,), {}, {}, {"blocking-io": 1}),
    "twice": Kind(
        "POST", "/orders/twice", 201, (COMMITTED, COMMITTED), {"INSERT": 2}, {}, {"split-unit-of-work": 1}, 2
    ),
    "reconnect": Kind("POST", "/reconnect", 200),
    "report": Kind("GET", "/reports", 200, (READ_ONLY,)),
    "report that waits": Kind("GET", "/reports?seconds=3", 200, (READ_ONLY,)),
    "report that holds": Kind("GET", "/reports/held", 200, (READ_ONLY,)),
    "report without a connection": Kind("GET", "/reports?seconds=0", 503, (ROLLED_BACK,), timeouts=1),
    "report while none is free": Kind("GET", "/reports/exhausted", 503, (ROLLED_BACK,), timeouts=1),
    "collect": Kind("POST", "/collect", 200),
}


# function and route of each finding, as the dashboard's table and the alerts show them
PLACES = {
    "lost-writes": "telemetry_service.get_db lost-writes POST /orders/lost",
    "n-plus-one": "telemetry_service.list_articles n-plus-one GET /orders/articles",
    "detached-access": "telemetry_service.read_too_late detached-access GET /orders/1/late",
    "session-leak": "telemetry_service.forget_session session-leak GET /orders/1/forgotten",
    "blocking-io": "telemetry_service.block_the_loop blocking-io GET /async/orders/blocking",
    "split-unit-of-work": "telemetry_service.take_order_and_count split-unit-of-work POST /orders/twice",
}


@dataclass
class Expected:
    """What the counters have to say after some traffic, by their attributes."""

    closed: Counter[tuple[str, str]] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    loads: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    flushes: int = 0
    timeouts: int = 0  # of pools

    def add(self, name: str, times: int) -> None:
        kind = KINDS[name]
        for outcome in kind.sessions:
            self.closed[outcome] += times
        for counter, more in ((self.rows, kind.rows), (self.loads, kind.loads), (self.findings, kind.findings)):
            counter.update({key: value * times for key, value in more.items()})
        self.flushes += kind.flushes * times
        self.timeouts += kind.timeouts * times
