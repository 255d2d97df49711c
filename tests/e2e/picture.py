"""The dashboard over a service under load, as a picture: ``python -m tests.e2e.picture BUNDLE PICTURE``.

Five minutes: healthy traffic throughout; in the middle a release with faults. ``nox -s picture`` runs it.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
from sqlalchemy import URL

from dashboards import picture, queries
from tests.e2e.observability import prometheus
from tests.e2e.programs import PATIENCE, environment, eventually, started, uvicorn_address
from tests.e2e.traffic import KINDS
from tests.services import POSTGRESQL, libpq

PROGRAMS = Path(__file__).parents[1] / "programs"
SECONDS = 300
USERS = 4
HEALTHY = {"order": 10, "count": 20, "async count": 20, "rename": 5, "refused": 1, "note": 2, "report": 10}
FAULTY = {"lost": 3, "articles": 6, "late": 2, "forgotten": 1, "blocking": 1, "twice": 1, "report that waits": 1}


def work(address: str, seed: int, began: float) -> None:
    """One user: a request, a moment, the next; the faulty ones only in the middle of the time."""
    chance = random.Random(seed)
    with httpx.Client(base_url=address, timeout=PATIENCE) as client:
        while (now := time.monotonic() - began) < SECONDS:
            faulty = SECONDS * 0.4 < now < SECONDS * 0.7
            kinds = HEALTHY | FAULTY if faulty else HEALTHY
            (name,) = chance.choices(list(kinds), list(kinds.values()))
            client.request(KINDS[name].method, KINDS[name].path)
            if chance.random() < 0.02:
                client.post("/collect")
            time.sleep(chance.expovariate(20 + 10 * faulty))


@contextmanager
def database(server: URL) -> Iterator[URL]:
    """An empty database for the service."""
    with psycopg.connect(libpq(server), autocommit=True) as connection:
        connection.execute("CREATE DATABASE sessionwatch_picture")
        try:
            yield server.set(drivername="postgresql+psycopg", database="sessionwatch_picture")
        finally:
            connection.execute("DROP DATABASE sessionwatch_picture WITH (FORCE)")


def main(bundle: Path, target: Path) -> None:
    POSTGRESQL.provide()
    command = ["uvicorn", "telemetry_service:app", "--port", "0", "--no-access-log"]
    with database(POSTGRESQL.url()) as url, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = environment(DATABASE_URL=url.render_as_string(hide_password=False))
        with started(command, cwd=PROGRAMS, folder=folder / "service", env=env) as program:
            address = uvicorn_address(program)
            jobs = {"shop": address.removeprefix("http://")}
            with prometheus(folder / "prometheus", jobs, queries.ALERTS, renamed={}, every="2s") as server:
                eventually(lambda: server.number("sum(sessionwatch_findings_total)"), program)
                users = [threading.Thread(target=work, args=(address, seed, time.monotonic())) for seed in range(USERS)]
                for user in users:
                    user.start()
                for user in users:
                    user.join()
                now = int(time.time())
                data = picture.answers(server.url, now - SECONDS + 20, now)
        empty = picture.draw(data, bundle, target).empty
    POSTGRESQL.stop()
    if empty:
        sys.exit(f"panels without data: {', '.join(empty)}")


if __name__ == "__main__":
    os.environ.pop("SESSIONWATCH_TESTING", None)
    main(*map(Path, sys.argv[1:]))
