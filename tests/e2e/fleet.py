"""The service of ``tests/programs/telemetry_service.py`` with many workers: each can be talked to, and be ended."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
from sqlalchemy import URL

from dashboards import queries
from tests.cli.programs import PATIENT
from tests.e2e.observability import Prometheus, prometheus
from tests.e2e.programs import PATIENCE, Program, environment, eventually, started
from tests.e2e.traffic import KINDS, Expected
from tests.services import free_port

PROGRAMS = Path(__file__).parents[1] / "programs"
SPARE = 1  # ports beside those of the workers, for one that starts before another has ended
OPENED = "sessionwatch_sessions_opened_total"
SAMPLES = 14  # a rate is extrapolated by 1.1 times what lies between two of them, at most
ONE_CONNECTION = httpx.Limits(max_connections=1, keepalive_expiry=None)  # another one may lead to another worker


@dataclass
class Worker:
    """One process of the service, behind a connection that is kept."""

    pid: int
    port: int  # of its metrics
    client: httpx.Client
    sessions: int = 0  # that ended in it

    def pools(self) -> dict[str, dict[str, int]]:
        """Of each pool the connections that are idle, in use, and were made."""
        found: dict[str, dict[str, int]] = self.client.get("/pools").json()
        return found


@dataclass
class Fleet:
    """A running service; what it was asked is counted here."""

    address: str
    program: Program
    prometheus: Prometheus
    size: int
    expected: Expected = field(default_factory=Expected)
    workers: dict[int, Worker] = field(default_factory=dict)
    made_by_the_dead: Counter[str] = field(default_factory=Counter)  # connections, by pool
    began: float = field(default_factory=time.time)
    window: float = 0  # seconds that were looked at
    told: set[int] = field(
        default_factory=set
    )  # the processes that lost writes: each has told the team, once, and failed

    def meet(self) -> None:
        """Connect to workers until each of them is known."""
        deadline = time.monotonic() + PATIENCE
        while len(self.workers) < self.size:
            assert time.monotonic() < deadline, self.program.stderr[-4000:]
            client = httpx.Client(base_url=self.address, timeout=PATIENCE, limits=ONE_CONNECTION)
            who = client.get("/worker").json()
            if who["pid"] in self.workers:
                client.close()
            else:
                self.workers[who["pid"]] = Worker(who["pid"], who["port"], client)
        reporting = f"count(count by (instance) ({OPENED}{self.living}))"
        eventually(lambda: self.prometheus.number(reporting) == self.size or None, self.program)

    @property
    def living(self) -> str:
        """Selects the series of the workers that are known."""
        return f'{{instance=~".*:({"|".join(str(worker.port) for worker in self.workers.values())})"}}'

    def ask(self, worker: Worker, name: str) -> None:
        """One request of a kind; its answer is looked at, and what it makes the service count is noted."""
        kind = KINDS[name]
        answer = worker.client.request(kind.method, kind.path)
        assert answer.status_code == kind.status, answer.text
        self.expected.add(name, 1)
        if name == "lost":
            self.told.add(worker.pid)
        worker.sessions += len(kind.sessions)

    def send(self, traffic: dict[str, int]) -> None:
        """So many requests of each kind, to one worker after the other."""
        turn = 0
        for name, times in traffic.items():
            for _ in range(times):
                self.ask(list(self.workers.values())[turn % self.size], name)
                turn += 1
        for worker in self.workers.values():
            self.ask(worker, "collect")
        self.settle()
        self.live()

    def settle(self) -> None:
        """Wait until Prometheus has seen every session of the living workers, and has asked every port once more."""
        for worker in self.workers.values():
            assert worker.client.get("/worker").json()["pid"] == worker.pid
            eventually(partial(self._seen, worker), self.program)
        moment = time.time()
        eventually(lambda: self.prometheus.asked_since(moment, self.living), self.program)

    def live(self) -> None:
        """Wait until Prometheus has so many samples of each worker that it extrapolates no rate by a tenth."""
        fewest = f"min(count_over_time({OPENED}{self.living}[1h]))"
        eventually(lambda: (self.prometheus.number(fewest) or 0) >= SAMPLES or None, self.program)

    def _seen(self, worker: Worker) -> bool | None:
        counted = f'sum(sessionwatch_sessions_closed_total{{instance=~".*:{worker.port}"}})'
        return self.prometheus.number(counted) == worker.sessions or None

    def restart(self) -> None:
        """Kill one worker, as the system does that runs out of memory; another one takes its place."""
        worker = self.workers.pop(next(iter(self.workers)))
        self.made_by_the_dead.update({name: pool["made"] for name, pool in worker.pools().items()})
        os.kill(worker.pid, signal.SIGKILL)
        worker.client.close()
        self.meet()
        self.settle()


@contextmanager
def fleet(size: int, database: URL, folder: Path, **env: str) -> Iterator[Fleet]:
    """The service under gunicorn with so many workers, and a Prometheus that has seen each of them."""
    ports = sorted({free_port() for _ in range(size + SPARE)})
    targets = ",".join(f"127.0.0.1:{port}" for port in ports)
    address = f"127.0.0.1:{free_port()}"
    command = ["gunicorn", "telemetry_service:app", "-w", str(size), "-k", "uvicorn.workers.UvicornWorker"]
    command += ["--bind", address, "--no-control-socket", "--keep-alive", "300", *PATIENT["gunicorn"]]
    env = environment(
        DATABASE_URL=database.render_as_string(hide_password=False),
        METRICS_PORTS=",".join(map(str, ports)),
        PYTHONWARNINGS="ignore",
        **env,
    )
    with ExitStack() as running:
        program = running.enter_context(started(command, cwd=PROGRAMS, folder=folder / "service", env=env))
        eventually(lambda: re.search("Listening at", program.stderr), program)
        server = running.enter_context(
            prometheus(folder / "prometheus", {"shop": targets}, queries.ALERTS, renamed={}, every=1)
        )
        made = Fleet(f"http://{address}", program, server, size)
        made.meet()
        yield made
        for worker in made.workers.values():
            worker.client.close()
