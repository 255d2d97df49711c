"""The dashboard over a service under load, as a picture: ``python -m tests.e2e.picture BUNDLE PICTURE WORKERS``.

Five minutes: healthy traffic throughout; in the middle a release with faults, and of several workers one is killed.
``nox -s picture`` runs it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psycopg
from sqlalchemy import URL

from dashboards import picture
from tests.e2e.fleet import PROGRAMS, fleet
from tests.e2e.programs import PATIENCE
from tests.e2e.traffic import KINDS
from tests.services import POSTGRESQL, libpq

SECONDS = 300
USERS = 4
HEALTHY = {"order": 10, "count": 20, "async count": 20, "rename": 5, "refused": 1, "note": 2, "report": 10}
HEALTHY |= {"reconnect": 1}
FAULTY = {"lost": 3, "articles": 6, "late": 2, "forgotten": 1, "blocking": 1, "twice": 1, "report that waits": 1}


def work(address: str, seed: int, began: float) -> None:
    """One user: a request, a moment, the next; the faulty ones only in the middle of the time."""
    chance = random.Random(seed)
    # a connection per request, so that all workers get some
    with httpx.Client(base_url=address, timeout=PATIENCE, headers={"Connection": "close"}) as client:
        while (now := time.monotonic() - began) < SECONDS:
            faulty = SECONDS * 0.4 < now < SECONDS * 0.7
            kinds = HEALTHY | FAULTY if faulty else HEALTHY
            (name,) = chance.choices(list(kinds), list(kinds.values()))
            with suppress(httpx.TransportError):  # of the worker that was killed
                client.request(KINDS[name].method, KINDS[name].path)
                if chance.random() < 0.02:
                    client.post("/collect")
            time.sleep(chance.expovariate(20 + 10 * faulty))


@contextmanager
def database(server: URL) -> Iterator[URL]:
    """An empty database for the service."""
    name = f"sessionwatch_picture_{os.getpid()}"
    with psycopg.connect(libpq(server), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield server.set(drivername="postgresql+psycopg", database=name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def main(bundle: Path, target: Path, workers: int) -> None:
    POSTGRESQL.provide()
    with (
        database(POSTGRESQL.url()) as url,
        tempfile.TemporaryDirectory() as name,
        fleet(workers, url, Path(name), INSTANCE_LABEL="yes") as service,
    ):
        began = time.monotonic()
        users = [threading.Thread(target=work, args=(service.address, seed, began)) for seed in range(USERS)]
        for user in users:
            user.start()
        if workers > 1:  # one is killed while the faulty release is out
            time.sleep(SECONDS * 0.55)
            os.kill(service.workers.popitem()[0], signal.SIGKILL)
        for user in users:
            user.join()
        now = service.prometheus.moment(service.living)
        answers = picture.answers(service.prometheus.url, now - SECONDS + 20, now)
        data = json.loads(json.dumps(answers).replace(f"{PROGRAMS}/", "shop/"))  # not where this checkout is
    empty = picture.draw(data, bundle, target).empty
    POSTGRESQL.stop()
    if empty:
        sys.exit(f"panels without data: {', '.join(empty)}")


if __name__ == "__main__":
    os.environ.pop("SESSIONWATCH_TESTING", None)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
