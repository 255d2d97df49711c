"""Where the instructions go: the bytecodes that a mode adds to a workload, function by function.

A tracer counts each bytecode, so that the figures are the same in every run. What a function of C does is not in them,
nor what ``split-unit-of-work`` notes of callers: under a tracer it keeps away from their frames.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import CodeType, FrameType
from typing import Any

from sqlalchemy.orm import Session

from . import children, modes, workloads
from .databases import Database, UnavailableError
from .driver import around

NAMES = ("open+close", "short", "commit", "lazy")
MODES = ("telemetry", "log", "strict")
_FIRST = 300  # sessions; the first ones of a program in telemetry do more
_REPEATS = 64
_PACKAGES = ("/site-packages/", "/lib/python")

Found = dict[str, dict[str, float]]  # by workload and function: bytecodes a repeat


def measure(jobs: int = 2) -> dict[str, dict[str, Any]]:
    """By workload: ``bare``, the bytecodes of the bare program, and ``added``, those of each function by mode."""
    with ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(("bare", *MODES), pool.map(_count, ("bare", *MODES)), strict=True))
    return {
        name: {
            "bare": sum(found["bare"][name].values()),
            "added": {mode: _added(found["bare"][name], found[mode][name]) for mode in MODES},
        }
        for name in NAMES
    }


def _added(bare: dict[str, float], watched: dict[str, float]) -> dict[str, float]:
    more = {place: watched.get(place, 0.0) - bare.get(place, 0.0) for place in {*bare, *watched}}
    return {place: round(count, 2) for place, count in sorted(more.items()) if abs(count) >= 0.5}


def _count(mode: str) -> Found:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bytecodes", mode],
        capture_output=True, text=True, cwd=children.ROOT, env=children.environment(),
    )  # fmt: skip
    if done.returncode != 0:
        raise UnavailableError(f"{mode}: status {done.returncode}: {done.stderr.strip()[-1000:]}")
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


# -- in a process of its own --------------------------------------------------------------------------


def main(mode: str) -> None:
    """Count this mode; the answer is the last line of stdout."""
    db = Database("sqlite://")
    modes.start(mode, db)
    gc.disable()
    for _ in range(_FIRST):
        Session(db.engine).close()
    _prime()
    print(json.dumps({workload.name: _traced(db, workload) for workload in workloads.named(list(NAMES))}))


def _prime() -> None:
    """Ask for bytecodes once: from Python 3.12 on, the first time takes effect with the next ``sys.settrace()``."""

    def tracer(frame: FrameType, event: str, arg: object) -> Any:
        frame.f_trace_opcodes = True
        return tracer

    sys.settrace(tracer)
    (lambda: None)()
    sys.settrace(None)


def _traced(db: Database, workload: workloads.Workload) -> dict[str, float]:
    repeats = min(_REPEATS, workload.most)
    seen: Counter[CodeType] = Counter()

    def measured(run: workloads.Run) -> None:
        sys.settrace(tracer)
        try:
            run()
        finally:
            sys.settrace(None)

    def tracer(frame: FrameType, event: str, arg: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return within

    def within(frame: FrameType, event: str, arg: object) -> Any:
        seen[frame.f_code] += event == "opcode"
        return within

    around(db, workload, repeats, lambda run: run())  # caches fill
    around(db, workload, repeats, measured)
    found: Counter[str] = Counter()
    for code, count in seen.items():
        found[_place(code)] += count
    return {place: count / repeats for place, count in found.items()}


def _place(code: CodeType) -> str:
    """The module and the function, however deep inside of others it was made: ``hooks/closing.py _close_impl``."""
    path = code.co_filename.removeprefix(f"{children.ROOT}/")
    for folder in _PACKAGES:
        path = path.rpartition(folder)[2]
    name = code.co_qualname.removesuffix(".__call__").rpartition("<locals>.")[2]
    return f"{path.removeprefix('sessionwatch/')} {name}" if not path.startswith("<") else name


if __name__ == "__main__":
    main(sys.argv[1])
