"""A soak: a million sessions in log and in telemetry, with threads, tasks and forks; what grows, and what is left.

    python -m tests.host.soak                 a million in each mode; writes docs/soak.md
    python -m tests.host.soak 20000 --print   fewer, to the terminal

One session in a hundred loses a row that it wrote. Each mode has a process of its own. The exit status is 1 where
memory or the number of Python objects grew, a finding or a session was not counted, or a handle, thread, task or
child was left.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sessionwatch.watch import installation
from tests.programs.shop import Base, Order

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "soak.md"
SESSIONS, ROUNDS, THREADS, TASKS = 1_000_000, 20, 4, 10
FAULTY, LEAKED, ASYNC = 100, 5000, 20  # one session in so many
WARM = 5  # rounds before memory has to be flat
FILLED = 200_000  # sessions, with fewer of them the history of closed ones still fills
GROWTH = 4.0  # MiB of resident memory that may come and go after that
HISTORY = 4096  # closed sessions whose story is kept, as by default
LEAVES = 5  # Python objects that a round may leave on an average: it has more threads, tasks and connections
Sample = dict[str, float]


class Soak:
    """One process: the program, and what it has of everything after each round."""

    def __init__(self, mode: str, sessions: int, folder: Path, history: int) -> None:
        self.mode, self.each, self.history = mode, sessions // ROUNDS, history
        url = f"sqlite:///{folder / 'soak.db'}"
        self.engine = create_engine(url, connect_args={"timeout": 60})
        event.listen(self.engine, "connect", lambda connection, _: connection.execute("pragma synchronous=off"))
        self.url = url.replace("sqlite:", "sqlite+aiosqlite:")
        Base.metadata.create_all(self.engine)
        with Session(self.engine) as session, session.begin():
            session.add(Order(id=1))
        self.samples: list[Sample] = []
        self.counts = {"opened": 0, "lost": 0, "leaked": 0}
        self.lock = threading.Lock()

    # -- the program --------------------------------------------------------------------------------------

    def round(self) -> None:
        in_tasks = self.each // ASYNC
        share = (self.each - in_tasks) // THREADS
        threads = [threading.Thread(target=self.many, args=(share,)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(self.tasks(in_tasks))
        self.child()
        self.samples.append(self.sample())

    def many(self, number: int) -> None:
        lost = leaked = 0
        for count in range(1, number + 1):
            if not count % LEAKED:
                self.leak()
                leaked += 1
            elif not count % FAULTY:
                self.lose()
                lost += 1
            else:
                self.read()
        self.add(number, lost, leaked)

    def add(self, opened: int, lost: int, leaked: int) -> None:
        with self.lock:
            for name, number in zip(self.counts, (opened, lost, leaked), strict=True):
                self.counts[name] += number

    def read(self) -> None:
        with Session(self.engine) as session:
            session.get(Order, 1)

    def lose(self) -> None:
        with Session(self.engine) as session:
            session.add(Order(status="lost"))
            session.flush()

    def leak(self) -> None:
        session = Session(self.engine)
        session.get(Order, 1)
        session.info["itself"] = session  # the collector's to find

    async def tasks(self, number: int) -> None:
        engine = create_async_engine(self.url, connect_args={"timeout": 60})
        await asyncio.gather(*(self.task(engine, number // TASKS) for _ in range(TASKS)))
        await engine.dispose()

    async def task(self, engine: Any, number: int) -> None:
        lost = 0
        for count in range(1, number + 1):
            async with AsyncSession(engine) as session:
                if count % FAULTY:
                    await session.get(Order, 1)
                else:
                    session.add(Order(status="lost"))
                    await session.flush()
                    lost += 1
        self.add(number, lost, 0)

    def child(self) -> None:
        """A forked process that works, too, and ends by itself."""
        self.engine.dispose()  # a connection is not for both
        if pid := os.fork():
            assert os.waitpid(pid, 0)[1] == 0
            return
        status = 1
        try:
            self.many(FAULTY)
            status = 0
        finally:
            os._exit(status)

    # -- what there is of everything ---------------------------------------------------------------------

    def sample(self) -> Sample:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {
            "sessions": self.counts["opened"],
            "MiB": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
            "objects": len(gc.get_objects()),
            **left(),
        }

    def run(self) -> dict[str, Any]:
        self.engine.dispose()
        before = left()
        providers: Any = providers_of(self.mode)
        settings = {"history.sessions": self.history}
        watch = installation.install(mode=self.mode, providers=providers, settings=settings)  # type: ignore[arg-type]
        began = time.monotonic()
        for _ in range(ROUNDS):
            self.round()
            for provider in providers.values():
                provider.force_flush()
        told = {
            rule: sum(f.count for f in watch.findings if f.rule == rule) for rule in ("lost-writes", "session-leak")
        }
        status = watch.status()
        watch.uninstall()
        for provider in providers.values():
            provider.shutdown()
        self.engine.dispose()
        gc.collect()
        return {
            "mode": self.mode,
            "history": self.history,
            "samples": self.samples,
            "made": self.counts,
            "told": {**told, "closed": closed(status)},
            "internal": status["internal_errors"],
            "before": before,
            "after": left(),
            "seconds": round(time.monotonic() - began),
        }


def left() -> dict[str, int]:
    """Threads, open handles and children of this process."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {"threads": threading.active_count(), "handles": len(os.listdir("/proc/self/fd")), "children": len(children)}


def closed(status: dict[str, Any]) -> int:
    return sum(status["sessions"]["closed"].values())


def providers_of(mode: str) -> dict[str, Any]:
    """A real SDK in telemetry, read and forgotten after each round."""
    if mode != "telemetry":
        return {}
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    return {"meter_provider": MeterProvider([InMemoryMetricReader()]), "logger_provider": LoggerProvider()}


def wrong(run: dict[str, Any]) -> list[str]:
    """What did not hold, in words."""
    made, told = run["made"], run["told"]
    said = []
    for what, number in (("lost-writes", made["lost"]), ("session-leak", made["leaked"]), ("closed", made["opened"])):
        if told[what] != number:
            said.append(f"{told[what]} {what}, not {number}")
    if run["after"] != run["before"]:
        said.append(f"left: {run['after']}, at first {run['before']}")
    if run["internal"]:
        said.append(f"internal errors: {run['internal']}")
    warm = [sample["MiB"] for sample in run["samples"][WARM:]]
    if made["opened"] >= FILLED and warm[-1] - warm[0] > GROWTH:
        said.append(f"memory grew from {warm[0]} to {warm[-1]} MiB")
    objects = [sample["objects"] for sample in run["samples"][WARM:]]
    is_full = made["opened"] * WARM // ROUNDS > run["history"]
    if is_full and objects[-1] - objects[0] > LEAVES * len(objects):
        said.append(f"from {objects[0]} Python objects to {objects[-1]}")
    return said


def page(runs: list[dict[str, Any]]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("sqlalchemy", "sessionwatch"))
    lines = [
        "# A soak",
        "",
        f"Written by `python -m tests.host.soak`. {versions}, Python {python_version()}.",
        f"{ROUNDS} rounds of {THREADS} new threads, {TASKS} tasks on a new event loop and a forked child. One session",
        f"in {FAULTY} loses a row, one in {LEAKED} is dropped with its connection. Memory: the process's resident set.",
    ]
    for run in runs:
        made, told = run["made"], run["told"]
        lines += [
            "",
            f"## Mode {run['mode']}",
            "",
            f"{made['opened']:,} sessions, of which {told['closed']:,} were counted.",
            f"{made['lost']:,} lost writes, {told['lost-writes']:,} reported.",
            f"{made['leaked']:,} leaks, {told['session-leak']:,} reported.",
            f"{sum(run['internal'].values())} internal errors.",
            f"Left after `uninstall()`: {differing(run)}.",
            "",
            "| sessions | MiB | Python objects | threads | handles |",
            "| ---: | ---: | ---: | ---: | ---: |",
        ]
        for number in (0, *range(WARM - 1, ROUNDS - 1, 3), ROUNDS - 1):
            one = run["samples"][number]
            row = (f"{one['sessions']:,}", one["MiB"], f"{one['objects']:,}", one["threads"], one["handles"])
            lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines) + "\n"


def differing(run: dict[str, Any]) -> str:
    more = {name: run["after"][name] - number for name, number in run["before"].items()}
    return ", ".join(f"{number} {name}" for name, number in more.items())


def run(mode: str, sessions: int, history: int = HISTORY) -> dict[str, Any]:
    """One mode, in a process of its own."""
    command = [sys.executable, "-m", "tests.host.soak", str(sessions), "--mode", mode, "--history", str(history)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sessions", nargs="?", type=int, default=SESSIONS)
    parser.add_argument("--print", action="store_true", help="the page to the terminal")
    parser.add_argument("--mode", choices=("log", "telemetry"), help="one of them, in this process; prints JSON")
    parser.add_argument("--history", type=int, default=HISTORY, help="closed sessions whose story is kept")
    options = parser.parse_args(arguments)
    if options.mode:
        logging.getLogger("sessionwatch").addHandler(logging.NullHandler())
        logging.getLogger("sessionwatch").propagate = False
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(Soak(options.mode, options.sessions, Path(folder), options.history).run()))
        return 0
    with ThreadPoolExecutor() as both:
        runs = list(both.map(lambda mode: run(mode, options.sessions, options.history), ("log", "telemetry")))
    if options.print:
        print(page(runs))
    else:
        PAGE.write_text(page(runs), encoding="utf-8")
    said = [f"{one['mode']}: {line}" for one in runs for line in wrong(one)]
    print(*said, *(f"{one['mode']}: {one['seconds']} s" for one in runs), sep="\n", file=sys.stderr)
    return bool(said)


if __name__ == "__main__":
    sys.exit(main())
