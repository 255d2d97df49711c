"""The process in which workloads run: one mode, one database. Started by the other modules, not by hand.

``count``  runs each workload and marks where a sample begins and ends, for callgrind
``serve``  runs slices on request, one JSON object a line, and answers with seconds
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from . import examples, modes, sdk, workloads
from .databases import Database, UnavailableError
from .switch import counting
from .workloads import Workload

_FIRST = 300  # sessions; in telemetry the first ones of a program look whether an SDK is set up meanwhile


def main() -> int:
    """Run one part; the answers go to the file descriptor that was stdout, and nothing else does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("count", "serve"))
    parser.add_argument("--mode", required=True)
    parser.add_argument("--database", default="sqlite://")
    parser.add_argument("--workloads", default="")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--layout", type=int, default=0)
    parser.add_argument("--sdk", choices=sdk.KINDS, help="set up OpenTelemetry's SDK first, or say that there is none")
    parser.add_argument("--examples", type=Path, help="run SQLAlchemy's examples in this folder, and no workloads")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    kept = padding(options.layout)
    db = Database(options.database)
    try:
        if options.sdk:
            sdk.start(options.sdk)
        started = modes.start(options.mode, db)
    except UnavailableError as error:
        print(json.dumps({"cannot": str(error)}), file=answers)
        return 0
    if options.part == "count":
        chosen = workloads.named([name for name in options.workloads.split(",") if name])
        chosen = examples.found(options.examples) if options.examples else chosen
        labels, failed = count(db, started, chosen, options.samples, options.scale)
        print(json.dumps({"labels": labels, "failed": failed, "complaints": started.complaints()}), file=answers)
    else:
        for answer in serve(db, started):
            print(json.dumps(answer), file=answers)
    db.close()
    del kept
    return 0


# -- instructions -------------------------------------------------------------------------------------


def mark() -> None:
    """Valgrind is told to write out and reset its counters whenever this function of libc is called."""
    os.getsid(0)


def padding(layout: int) -> list[Any]:
    """Objects and types that are in the way: what is made later lies, and hashes, elsewhere."""
    kinds: list[Any] = [type(f"Padding{number}", (), {"value": 1}) for number in range(layout * 97)]
    return [*((kind.value, kind().value, kind) for kind in kinds), *(b"x" * (n % 400) for n in range(layout * 1009))]


def count(
    db: Database, started: modes.Started, chosen: list[Workload], samples: int, scale: float
) -> tuple[list[list[Any]], dict[str, str]]:
    """Run the samples; returns a label for each mark, in order, and the workloads that can't run.

    Label ``[workload, part]``: ``other`` is not measured, ``run`` and ``garbage`` are, and ``empty``, a
    collection that finds nothing, is what to subtract.
    """
    gc.disable()
    labels: list[list[Any]] = []
    failed: dict[str, str] = {}
    for _ in range(_FIRST):
        Session(db.engine).close()
    for workload in chosen:
        repeats = max(1, round(workload.repeats * scale))
        try:
            slice_of(db, started, workload, repeats)  # caches fill
            gc.collect()
            gc.freeze()
            for _ in range(samples):
                _sample(db, started, workload, repeats)
                labels += [[workload.name, part, repeats] for part in ("other", "run", "garbage", "empty")]
        except UnavailableError as error:
            failed[workload.name] = str(error)
        gc.unfreeze()
    return labels, failed


def _sample(db: Database, started: modes.Started, workload: Workload, repeats: int) -> None:
    def measured(run: workloads.Run) -> None:
        gc.collect()
        with started.window():
            counting(True)
            mark()
            run()
            mark()
            gc.collect()
            mark()
            gc.collect()
            mark()
            counting(False)

    around(db, workload, repeats, measured)


def around(db: Database, workload: Workload, repeats: int, measured: Any) -> None:
    """Prepare, call ``measured`` with the function that does the repeats, clean up."""
    if workload.is_async:  # has a loop of its own
        for run in workload.prepare(db, repeats):
            measured(run)
        return
    steps: Iterator[workloads.Run] = workload.prepare(db, repeats)
    run = db.call(lambda: next(steps))
    db.call(lambda: measured(run))
    db.call(lambda: next(steps, None))


# -- time ---------------------------------------------------------------------------------------------


def slice_of(db: Database, started: modes.Started, workload: Workload, repeats: int) -> dict[str, float]:
    """Seconds of wall and of processor time that ``repeats`` repeats took."""
    total = {"wall": 0.0, "cpu": 0.0}

    def measured(run: workloads.Run) -> None:
        gc.collect()
        with started.window():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            total["wall"] += time.perf_counter() - wall
            total["cpu"] += time.process_time() - cpu

    left = repeats
    while left > 0:
        around(db, workload, min(left, workload.most), measured)
        left -= workload.most
    return total


def serve(db: Database, started: modes.Started) -> Iterator[dict[str, Any]]:
    """Answer each line of stdin: ``{"workload": name, "repeats": n}``; an empty object asks for complaints."""
    by_name = {workload.name: workload for workload in (*workloads.ALL, *workloads.REQUESTS)}
    yield {"ready": True}
    for line in sys.stdin:
        asked = json.loads(line)
        if not asked:
            yield {"complaints": started.complaints()}
            continue
        try:
            yield slice_of(db, started, by_name[asked["workload"]], asked["repeats"])
        except UnavailableError as error:
            yield {"cannot": str(error)}
        except Exception as error:
            traceback.print_exc()
            yield {"cannot": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    raise SystemExit(main())
