"""The bounds that a change must keep: instruction counts only, because they can't be disturbed.

About 15 % above what was measured where a session or a statement pays, a few percent where nothing may
be added: a step is caught, the layout of memory is not. A ratio that falls for good takes its bound along.
"""

from __future__ import annotations

from .instructions import Counts, ratios

LINE = "2.1"  # of SQLAlchemy: the other one has other counts

WORKLOADS = ("read", "load", "flush", "short", "commit", "lazy", "open+close", "async", "bulk", "append", "set")
BOUNDS: dict[str, tuple[float, ...]] = {
    "telemetry": (1.02, 1.02, 1.05, 1.30, 1.24, 1.13, 1.61, 1.25, 1.03, 1.10, 1.04),
    "log": (1.02, 1.02, 1.05, 1.30, 1.33, 1.14, 1.69, 1.32, 1.03, 1.15, 1.05),
    "strict": (0.76, 1.02, 1.05, 1.32, 1.34, 1.14, 1.69, 1.32, 1.03, 1.17, 1.05),
}
MODES = ("bare", *BOUNDS)
# Not "bulk", which takes the way of "flush", nor "async" and "append", whose counts move most: time is short.
COUNTED = ("read", "load", "flush", "short", "commit", "lazy", "open+close", "set")


def above(counted: list[Counts]) -> list[str]:
    """The workloads with a ratio above its bound, in the order of the table."""
    if any(counts.cannot for counts in counted):
        return []
    found = ratios(counted)
    bounds = {mode: dict(zip(WORKLOADS, BOUNDS[mode], strict=True)) for mode in found}
    return [name for name in WORKLOADS if any(found[mode].get(name, 0.0) > bounds[mode][name] for mode in found)]


def exceeded(counted: list[Counts]) -> list[str]:
    """A line for each ratio above its bound, each workload that could not run and each finding."""
    lines = [f"{counts.mode}: cannot run: {counts.cannot}" for counts in counted if counts.cannot]
    lines += [f"{counts.mode}: {complaint}" for counts in counted for complaint in counts.complaints]
    lines += [f"{counts.mode}, {name}: {why}" for counts in counted for name, why in counts.failed.items()]
    if any(counts.cannot for counts in counted):
        return lines
    for mode, found in ratios(counted).items():
        bounds = dict(zip(WORKLOADS, BOUNDS[mode], strict=True))
        lines += [
            f"{mode}, {name}: {ratio:.3f} times the instructions of bare, at most {bounds[name]:.2f} are allowed"
            for name, ratio in found.items()
            if ratio > bounds[name]
        ]
    return lines
