"""A service in telemetry mode under known traffic, with Prometheus and OTLP collectors that look at it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import URL

from dashboards import queries
from tests.e2e.observability import Prometheus, Received, collector, prometheus
from tests.e2e.programs import PATIENCE, environment, eventually, started, uvicorn_address
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
    "report": 2,
}


@dataclass
class Observed:
    """What was sent, and who saw what of it."""

    prometheus: Prometheus
    over_http: Received
    over_grpc: Received
    expected: Expected = field(default_factory=Expected)
    began: float = 0  # seconds since the epoch: before the first request, and when Prometheus had seen all
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
            prometheus(folder / "prometheus", jobs, queries.ALERTS, renamed={"renamed": RENAMED}, every="1s")
        )
        eventually(lambda: server.number('sum(sessionwatch_findings_total{job="shop"})'), program)  # all are 0
        made = Observed(server, over_http, over_grpc, began=time.time())

        def seen() -> bool | None:
            """Both jobs have scraped every session that was closed until now."""
            sessions, scraped = sum(made.expected.closed.values()), "sum by (job) (sessionwatch_sessions_closed_total)"
            return by(server.query(scraped), "job") == dict.fromkeys(jobs, sessions) or None

        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            ask(client, "count", made.expected)  # a histogram is born with its first value, which is no rate yet
            eventually(seen, program)
            send(client, made.expected)
        eventually(seen, program)
        made.ended = time.time()
        yield made


def by(samples: list[tuple[dict[str, str], float]], label: str) -> dict[str, float]:
    """The values that are not 0, by one label."""
    return {labels[label]: value for labels, value in samples if value}


def _empty(database: URL) -> None:
    with psycopg.connect(libpq(database), autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def send(client: httpx.Client, expected: Expected) -> None:
    """All of the traffic; each answer is looked at."""
    for name, times in TRAFFIC.items():
        for _ in range(times):
            ask(client, name, expected)
    exhaust_the_pool(client, expected)
    ask(client, "collect", expected)


def ask(client: httpx.Client, name: str, expected: Expected) -> None:
    kind = KINDS[name]
    answer = client.request(kind.method, kind.path)
    assert answer.status_code == kind.status, answer.text
    expected.add(name, 1)


def exhaust_the_pool(client: httpx.Client, expected: Expected) -> None:
    """One request holds the only connection of a pool, and two others wait for it in vain."""
    holder = threading.Thread(target=ask, args=(client, "report that waits", expected))
    holder.start()
    deadline = time.monotonic() + PATIENCE
    while client.get("/reports/busy").json() == 0:
        assert time.monotonic() < deadline
    others = [threading.Thread(target=ask, args=(client, "report without a connection", expected)) for _ in range(2)]
    for thread in others:
        thread.start()
    for thread in (holder, *others):
        thread.join()
