"""How long ``sessionwatch audit`` takes for 100,000 lines, on two processes.

The lines are the project's own tests and programs, copied side by side until there are enough of them: nearly every
file works with sessions, so that this is slower than a usual code base, in which most files don't.
"""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from sessionwatch.audit.analyse import audit

from .children import ROOT

LINES = 100_000
SECONDS = 20.0  # of wall time, on two cores that nothing else uses
WORKERS = 2
FOLDERS = ("tests", "examples", "sessionwatch/demo")


@dataclass(frozen=True, slots=True)
class Took:
    """``wall`` and ``processor`` are seconds, the latter of all processes together."""

    lines: int
    files: int
    operations: int
    wall: float
    processor: float


def measure(lines: int = LINES) -> Took:
    """Audit a tree of at least that many lines, once."""
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder), lines)
        before, began = _processor(), time.perf_counter()
        found = audit(folder, workers=WORKERS)
        wall = time.perf_counter() - began
    totals = found.totals()
    return Took(totals["lines"], totals["files"], totals["operations"], wall, _processor() - before)


def _fill(folder: Path, lines: int) -> None:
    sources = [path for name in FOLDERS for path in sorted((ROOT / name).rglob("*.py"))]
    each = sum(path.read_text(encoding="utf-8").count("\n") for path in sources)
    for number in range(-(-lines // each)):
        for path in sources:
            target = folder / f"copy{number}" / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def _processor() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def text_of(took: Took) -> str:
    """One line, with what 100,000 lines would take."""
    scale = LINES / took.lines
    return (
        f"audit: {took.lines:,} lines in {took.files:,} files, {took.operations:,} operations: {took.wall:.1f} s on "
        f"{WORKERS} processes, {took.processor:.1f} s of processor time; per {LINES:,} lines {took.wall * scale:.1f} s "
        f"and {took.processor * scale:.1f} s (aim: at most {SECONDS:.0f} s)"
    )


def is_slow(took: Took) -> bool:
    """By processor time, because the machine is shared: two cores have two seconds of it in each."""
    return took.processor * LINES / took.lines > SECONDS * WORKERS
