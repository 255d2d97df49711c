"""A service in telemetry mode under known traffic, with Prometheus and OTLP collectors that look at it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import URL

from dashboards import queries
from tests.e2e.observability import Prometheus, Received, collector, prometheus
from tests.e2e.programs import PATIENCE, Program, environment, eventually, started, uvicorn_address
from tests.e2e.traffic import KINDS, Expected
from tests.services import libpq

PROGRAMS = Path(__file__).parents[1] / "programs"
RENAMED = "sessionwatch_findings_total"
TRAFFIC = {
    "order": 7,
    "count": 5,
    "async count": 6,
    "refused": 3,
    "lost": 2,
    "articles": 3,
    "note": 3,
    "rename": 2,
    "late": 2,
    "forgotten": 2,
    "blocking": 1,
    "twice": 2,
    "reconnect": 2,
    "report": 2,
}


@dataclass
class Observed:
    """What was sent, and who saw what of it."""

    prometheus: Prometheus
    over_http: Received
    over_grpc: Received
    expected: Expected = field(default_factory=Expected)
    began: float = 0  # seconds since the epoch: before the first request, and when Prometheus had all
    ended: float = 0


@pytest.fixture(scope="module")
def observed(postgres_database: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """The service after all of its traffic; Prometheus has seen all of it, and still runs."""
    # nox -s lowest has an SDK that the exporters of today can't work with
    pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.metric_exporter", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("telemetry")
    command = ["uvicorn", "telemetry_service:app", "--port", "0", "--no-access-log"]
    with ExitStack() as running:
        running.callback(_empty, postgres_database)
        http, _, over_http = running.enter_context(collector(folder / "http"))
        _, grpc, over_grpc = running.enter_context(collector(folder / "grpc"))
        env = environment(
            DATABASE_URL=postgres_database.render_as_string(hide_password=False), OTLP_HTTP=http, OTLP_GRPC=grpc
        )
        program = running.enter_context(started(command, cwd=PROGRAMS, folder=folder / "service", env=env))
        address = uvicorn_address(program)
        host = address.removeprefix("http://")
        jobs = {"shop": host, "renamed": host}
        server = running.enter_context(
            prometheus(folder / "prometheus", jobs, queries.ALERTS, renamed={"renamed": RENAMED})
        )
        eventually(lambda: server.number('sum(sessionwatch_findings_total{job="shop"})'), program)  # all are 0
        made = Observed(server, over_http, over_grpc, began=time.time())

        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            ask(client, "count", made.expected)  # a histogram is born with its first value, which is no rate yet
            _seen(made, jobs, program)
            send(client, made, program)
        _seen(made, jobs, program)
        server.at = made.ended = server.moment()
        yield made


def _seen(made: Observed, jobs: Collection[str], program: Program) -> None:
    """Wait until all that happened was scraped by both jobs, and judged by the alerts."""

    def counted() -> bool | None:
        sessions, scraped = sum(made.expected.closed.values()), "sum by (job) (sessionwatch_sessions_closed_total)"
        return by(made.prometheus.query(scraped), "job") == dict.fromkeys(jobs, sessions) or None

    eventually(counted, program)
    moment = time.time()
    eventually(lambda: made.prometheus.asked_since(moment), program)
    asked = time.time()
    eventually(lambda: made.prometheus.judged_since(asked), program)


def by(samples: list[tuple[dict[str, str], float]], label: str) -> dict[str, float]:
    """The values that are not 0, by one label."""
    return {labels[label]: value for labels, value in samples if value}


def _empty(database: URL) -> None:
    with psycopg.connect(libpq(database), autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def send(client: httpx.Client, made: Observed, program: Program) -> None:
    """All of the traffic; each answer is looked at."""
    for name, times in TRAFFIC.items():
        for _ in range(times):
            ask(client, name, made.expected)
    exhaust_the_pool(client, made, program)
    ask(client, "collect", made.expected)


def ask(client: httpx.Client, name: str, expected: Expected) -> None:
    answered(client, name)
    expected.add(name, 1)


def answered(client: httpx.Client, name: str) -> None:
    """One request of a kind, which is answered as it should be."""
    kind = KINDS[name]
    answer = client.request(kind.method, kind.path)
    assert answer.status_code == kind.status, answer.text


def exhaust_the_pool(client: httpx.Client, made: Observed, program: Program) -> None:
    """One request holds the only connection of a pool, until others were seen to wait for it in vain."""
    holds, fails = "report that holds", "report without a connection"
    with ThreadPoolExecutor() as users:
        holder = users.submit(answered, client, holds)
        try:
            eventually(lambda: client.get("/reports/busy").json() or None, program)

            def noticed() -> bool | None:
                list(users.map(partial(answered, client), [fails] * 2))
                made.expected.add(fails, 2)
                return bool(made.prometheus.query('ALERTS{job="shop",alertname="SessionwatchPoolExhausted"}')) or None

            eventually(noticed, program)
        finally:
            client.post("/reports/release")
        holder.result()
    made.expected.add(holds, 1)
