"""Instruction counts under callgrind: the one figure that another program on the machine can't change."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import children, switch, workloads
from .databases import UnavailableError

Say = Callable[[str], None]


@dataclass
class Counts:
    """Instructions a repeat by workload, the spread of the samples (1 % is 0.01), and what went wrong."""

    mode: str
    instructions: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    cannot: str | None = None


def measure(
    modes: Iterable[str],
    names: Iterable[str] = (),
    *,
    samples: int = 2,
    layouts: int = 3,
    scale: float = 1.0,
    jobs: int = 2,
    valgrind: bool = True,
    extra: Iterable[str] = (),
    say: Say = lambda line: None,
) -> list[Counts]:
    """Count each mode, ``jobs`` processes at a time. Raises `UnavailableError` without valgrind.

    Workloads that are not steady are counted in ``layouts`` processes, in each of which objects lie
    elsewhere in memory, and the mean is taken. ``valgrind=False`` runs the same programs without
    counting, for a test that all of them run. ``extra`` are options of the driver's.
    """
    if valgrind:
        need_valgrind()
    wanted = workloads.named(list(names))
    moving = [workload for workload in wanted if not workload.steady]

    def one(job: tuple[str, int]) -> Counts:
        mode, layout = job
        chosen = moving if layout else wanted
        options = [f"--workloads={','.join(workload.name for workload in chosen)}"]
        options += [f"--samples={samples}", f"--scale={scale}", f"--layout={layout}", *extra]
        counted = count(mode, options, valgrind)
        say(f"counted {mode}, layout {layout + 1}" + (f": cannot run: {counted.cannot}" if counted.cannot else ""))
        return counted

    asked = list(modes)
    jobs_ = [(mode, layout) for layout in range(layouts if moving else 1) for mode in asked]
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        counted = list(pool.map(one, jobs_))
    return [_mean([counts for counts in counted if counts.mode == mode]) for mode in asked]


def need_valgrind() -> None:
    """Raise `UnavailableError` where it is not installed."""
    if shutil.which("valgrind") is None:
        raise UnavailableError("valgrind is not installed (Debian: apt-get install valgrind)")


def count(mode: str, options: list[str], valgrind: bool = True) -> Counts:
    """Run one driver with these options under callgrind, and put its counts together."""
    with tempfile.TemporaryDirectory(prefix="sessionwatch-bench-") as folder:
        out = Path(folder) / "out"
        command = children.driver("count", mode, *options)
        if valgrind:  # on entry to getsid(), which the driver calls as a mark: write a file, and begin at zero
            tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--dump-before=getsid"]
            tool += ["--instr-atstart=no"] if switch.CAN_SWITCH else []
            command = [*tool, *command]
        done = subprocess.run(command, capture_output=True, text=True, cwd=children.ROOT, env=children.environment())
        if done.returncode != 0 or not done.stdout:
            return Counts(mode, cannot=f"status {done.returncode}: {done.stderr.strip()[-2000:]}")
        answer = json.loads(done.stdout)
        if "cannot" in answer:
            return Counts(mode, cannot=answer["cannot"])
        totals = [_total(Path(f"{out}.{number}")) if valgrind else 1 for number in range(1, len(answer["labels"]) + 1)]
        return _counts(mode, answer, totals)


def _mean(counted: list[Counts]) -> Counts:
    """The mean over the layouts; the spread is between them where there are several."""
    if any(counts.cannot for counts in counted):
        return next(counts for counts in counted if counts.cannot)
    mean = Counts(counted[0].mode, failed=counted[0].failed, complaints=counted[0].complaints)
    for name in counted[0].instructions:
        found = [counts.instructions[name] for counts in counted if name in counts.instructions]
        mean.instructions[name] = statistics.mean(found)
        between = (max(found) - min(found)) / mean.instructions[name]
        mean.spread[name] = max(between, *(counts.spread.get(name, 0.0) for counts in counted))
    return mean


def _total(dump: Path) -> int:
    for line in dump.open():
        if line.startswith(("totals:", "summary:")):
            return int(line.split()[1])
    raise ValueError(f"{dump} has no total")


def _counts(mode: str, answer: dict[str, Any], totals: list[int]) -> Counts:
    """Put together what the driver's labels and callgrind's totals say."""
    samples: dict[str, list[float]] = defaultdict(list)
    for (name, part, repeats), total in zip(answer["labels"], totals, strict=True):
        if part == "run":
            samples[name].append(total / repeats)
        elif part != "other":
            samples[name][-1] += (total if part == "garbage" else -total) / repeats
    counts = Counts(mode, failed=answer["failed"], complaints=answer["complaints"])
    for name, found in samples.items():
        counts.instructions[name] = statistics.median(found)
        counts.spread[name] = (max(found) - min(found)) / counts.instructions[name]
    return counts


def ratios(counted: list[Counts], base: str = "bare") -> dict[str, dict[str, float]]:
    """Ratio to the bare program, by mode and workload."""
    (bare,) = (counts.instructions for counts in counted if counts.mode == base)
    return {
        counts.mode: {name: found / bare[name] for name, found in counts.instructions.items() if name in bare}
        for counts in counted
        if counts.mode != base
    }
