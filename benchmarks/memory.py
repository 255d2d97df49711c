"""Bytes: a live session, a closed record, a finding; and whether memory grows with sessions or objects.

Each figure is taken in a process of its own, with tracemalloc; the bare program's figure is subtracted.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from . import children, modes
from .databases import Database
from .models import Order, order_row

MODES = ("telemetry", "log", "strict")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def measure(full: bool = False, quick: bool = False, jobs: int = 2) -> dict[str, Any]:
    """Bytes a piece by mode, and resident memory by number of sessions and objects.

    ``full``: the growth over a million sessions and objects; some minutes.
    """
    watched, each, steps = (("log",), 50, 2) if quick else (MODES, 2000, 10)
    many = {"sessions": 1_000_000, "objects": 1_000_000} if full else {"sessions": 20_000, "objects": 100_000}
    if quick:
        many = {"sessions": 500}
    asked = [(mode, piece, each, 1) for piece in PIECES for mode in ("bare", *watched)]
    asked += [(mode, what, count, steps) for what, count in many.items() for mode in ("bare", *watched)]
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        answers = dict(zip([job[:2] for job in asked], pool.map(lambda job: _child(*job), asked), strict=True))
    sizes = {piece: {mode: answers[mode, piece] - answers["bare", piece] for mode in watched} for piece in PIECES}
    growth = {what: {mode: answers[mode, what] for mode in ("bare", *watched)} for what in many}
    return {"bytes": sizes, "growth": growth, "growth_over": many}


def _child(mode: str, what: str, count: int, steps: int = 1) -> Any:
    command = [sys.executable, "-m", "benchmarks.memory", mode, what, str(count), str(steps)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=children.ROOT, env=children.environment()
    )
    return json.loads(done.stdout.splitlines()[-1])


def live(db: Database, count: int) -> Any:
    """Sessions that have just been opened."""
    return [Session(db.engine) for _ in range(count)]


def used(db: Database, count: int) -> Any:
    """Sessions that are in a transaction and hold an object."""
    sessions = live(db, count)
    return [(session, session.get(Order, 1)) for session in sessions]


def closed(db: Database, count: int) -> Any:
    """Sessions that were used, closed and dropped."""
    for _ in range(count):
        with Session(db.engine) as session:
            session.get(Order, 1)
    return None


def findings(db: Database, count: int) -> Any:
    """Writes that were lost in as many places."""
    program = "def lose(Session, engine, order):\n    with Session(engine) as session:\n"
    program += "        session.add(order)\n        session.flush()\n"
    for number in range(count):
        space: dict[str, Any] = {"__name__": f"place{number}"}
        exec(compile(program, f"/bench/place{number}.py", "exec"), space)
        space["lose"](Session, db.engine, Order(**order_row(number)))
    return None


PIECES: dict[str, Callable[[Database, int], Any]] = {
    "a live session": live,
    "a live session that holds an object": used,
    "a closed session's record": closed,
    "a finding": findings,
}


def _bytes_each(piece: Callable[[Database, int], Any], db: Database, count: int) -> float:
    piece(db, 20)  # caches fill
    gc.collect()
    tracemalloc.start()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    kept = piece(db, count)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del kept
    return (after - before) / count


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * _PAGE


def _growth(what: str, db: Database, count: int, steps: int) -> list[int]:
    """Resident bytes after each share of ``count`` sessions or loaded objects; the first fills the rings."""
    found = []
    for _ in range(steps + 1):
        if what == "sessions":
            closed(db, count // steps)
        else:
            left = count // steps
            while left > 0:
                with Session(db.engine) as session:
                    left -= max(1, len(session.scalars(select(Order).limit(min(left, 10_000))).all()))
        gc.collect()
        found.append(_resident())
    return found


def main() -> None:
    """One figure, printed as JSON."""
    mode, what, count, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    db = Database()
    if mode != "bare":
        import logging

        logging.disable(logging.CRITICAL)
    if mode == "strict" and what == "a finding":
        mode = "log"  # the same finding, without the exception
    started = modes.start(mode, db)
    answer = _bytes_each(PIECES[what], db, count) if what in PIECES else _growth(what, db, count, steps)
    print(json.dumps(answer))
    del started


if __name__ == "__main__":
    main()
