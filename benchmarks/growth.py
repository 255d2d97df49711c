"""The cost of one operation against how much there is: objects, sessions, threads, tasks. Flat lines, as pictures."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, insert, select
from sqlalchemy.orm import Session

from . import children, models, modes
from .databases import Database
from .models import Order, order_row

Say = Callable[[str], None]
Slice = Callable[[], float]  # microseconds of processor time an operation, of all threads
MODES = ("bare", "telemetry", "log", "strict")
TOGETHER = 100_000  # objects; with more, memory does not hold all modes at once
LONG = 1000  # tasks; with more, a slice takes seconds


def objects(db: Database, size: int) -> Iterator[Slice]:
    """One statement, one read and one change in a session that holds ``size`` objects."""
    with db.engine.begin() as connection:
        for begin in range(models.ORDERS + 1, size + 1, 10_000):
            rows = [{"id": n, **order_row(n)} for n in range(begin, begin + 10_000)]
            connection.execute(insert(Order), rows)
    with Session(db.engine) as session:
        held = list(session.scalars(select(Order).limit(size)))
        order = held[0]

        def run() -> float:
            began = time.process_time()
            for number in range(50):
                with session.no_autoflush:
                    session.scalars(select(Order.id).where(Order.id == 1)).all()
                order.status  # noqa: B018
                order.total = number
            return (time.process_time() - began) / 50 * 1e6

        yield run
        session.rollback()


def sessions(db: Database, size: int) -> Iterator[Slice]:
    """Open, get, close while ``size`` other sessions are alive."""
    alive = [Session(db.engine) for _ in range(size)]

    def run() -> float:
        began = time.process_time()
        for _ in range(50):
            with Session(db.engine) as session:
                session.get(Order, 1)
        return (time.process_time() - began) / 50 * 1e6

    yield run
    for session in alive:
        session.close()


def threads(db: Database, size: int) -> Iterator[Slice]:
    """Open, get, close in ``size`` threads at once, on a file; all operations share one interpreter lock."""
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{folder}/db", pool_size=size)
        with engine.begin() as connection:
            models.seed(connection, 10)
        each = max(2, 128 // size)

        def work() -> None:
            for _ in range(each):
                with Session(engine) as session:
                    session.get(Order, 1)

        def run() -> float:
            workers = [threading.Thread(target=work) for _ in range(size)]
            began = time.process_time()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            return (time.process_time() - began) / (size * each) * 1e6

        yield run
        engine.dispose()


def tasks(db: Database, size: int) -> Iterator[Slice]:
    """``size`` tasks at once, each with an AsyncSession that does one get on one of ten connections."""
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{folder}/db"
        engine = create_async_engine(url, pool_size=10, max_overflow=0, pool_timeout=600)

        async def fill() -> None:
            async with engine.begin() as connection:
                await connection.run_sync(models.seed, 10)

        async def one() -> None:
            async with AsyncSession(engine) as session:
                await session.get(Order, 1)

        turns = max(1, 100 // size)

        async def every() -> float:
            began = time.process_time()
            for _ in range(turns):
                await asyncio.gather(*(one() for _ in range(size)))
            return (time.process_time() - began) / (size * turns) * 1e6

        db.loop.run_until_complete(fill())
        yield lambda: db.loop.run_until_complete(every())
        db.loop.run_until_complete(engine.dispose())


AXES: dict[str, tuple[Callable[[Database, int], Iterator[Slice]], str, tuple[int, ...], tuple[int, ...]]] = {
    "objects": (objects, "objects in the session", (10, 100, 1000, 10_000, 100_000), (1_000_000,)),
    "sessions": (sessions, "sessions alive", (1, 10, 100, 1000, 10_000), (100_000,)),
    "threads": (threads, "threads", (1, 4, 16, 64), ()),
    "tasks": (tasks, "tasks", (1, 10, 100, 1000), (10_000,)),
}


def measure(full: bool = False, quick: bool = False, say: Say = lambda line: None) -> dict[str, Any]:
    """Microseconds an operation, by axis, mode and size; medians of interleaved slices."""
    found: dict[str, Any] = {}
    for axis, (_, _, usual, more) in AXES.items():
        sizes = usual[:2] if quick else usual + more if full else usual
        found[axis] = {mode: {} for mode in MODES}
        for size in sizes:
            groups = [[mode] for mode in MODES] if axis == "objects" and size > TOGETHER else [list(MODES)]
            for group in groups:
                rounds = 2 if quick else 9 if axis != "tasks" or size <= LONG else 3
                for mode, taken in _point(axis, size, group, rounds).items():
                    found[axis][mode][size] = taken
            say(f"measured {size} {AXES[axis][1]}")
    return found


def _point(axis: str, size: int, group: list[str], rounds: int) -> dict[str, float]:
    arguments = ("--axis", axis, "--size", str(size))
    workers = [children.Worker(mode, "benchmarks.growth", *arguments) for mode in group]
    try:
        taken = defaultdict(list)
        able = [worker for worker in workers if "cannot" not in worker.answer()]
        for turn in range(rounds):
            for worker in able[turn % len(able) :] + able[: turn % len(able)]:
                taken[worker.mode].append(worker.ask(go=True)["us"])
        return {mode: statistics.median(times) for mode, times in taken.items()}
    finally:
        for worker in workers:
            worker.close()


def draw(found: dict[str, Any], folder: Path) -> list[Path]:
    """One picture an axis. Raises ImportError without matplotlib."""
    import matplotlib  # type: ignore[import-untyped, unused-ignore]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-untyped, unused-ignore]

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for axis, by_mode in found.items():
        figure, plot = pyplot.subplots(figsize=(6.4, 3.8), dpi=120)
        for (mode, points), style in zip(by_mode.items(), ("k--", "C0o-", "C1s-", "C3^-"), strict=False):
            plot.plot([int(size) for size in points], list(points.values()), style, label=mode, linewidth=1.4)
        plot.set_xscale("log")
        sizes = [int(size) for size in max(by_mode.values(), key=len)]
        plot.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
        plot.set_xticks([], minor=True)
        plot.set_ylim(bottom=0)
        plot.set_xlabel(AXES[axis][1])
        plot.set_ylabel("µs of processor time an operation")
        plot.grid(alpha=0.3)
        plot.legend(frameon=False, ncol=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))  # never over a line
        figure.tight_layout()
        path = folder / f"growth-{axis}.png"  # as the page calls it
        figure.savefig(path, metadata={"Software": None})
        pyplot.close(figure)
        made.append(path)
    return made


def main() -> None:
    """One point in one mode: answers each line with the microseconds of a slice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("serve",))
    parser.add_argument("--mode", required=True)
    parser.add_argument("--axis", choices=list(AXES), required=True)
    parser.add_argument("--size", type=int, required=True)
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    db = Database()
    started = modes.start(options.mode, db)
    for run in AXES[options.axis][0](db, options.size):
        run()  # caches fill
        gc.collect()
        gc.freeze()  # else each collection goes through what is held, and the line is the collector's
        print(json.dumps({"ready": True}), file=answers)
        for _ in sys.stdin:
            print(json.dumps({"us": run()}), file=answers)
    db.close()
    del started


if __name__ == "__main__":
    main()
