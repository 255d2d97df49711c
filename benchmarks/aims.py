"""What was aimed at, shown beside what was measured. The bounds that a change must keep are in `check`."""

from __future__ import annotations

from . import workloads

LINE = "2.1"  # of SQLAlchemy, for the ratios
_NAMES = ("read", "load", "flush", "short", "commit", "lazy", "open+close", "append", "set")
RATIOS: dict[str, dict[str, float]] = {
    "off": dict.fromkeys((workload.name for workload in workloads.ALL), 1.0),
    "telemetry": dict(zip(_NAMES, (1.000, 1.002, 1.005, 1.03, 1.04, 1.02, 1.30, 1.00, 1.00), strict=True)),
    "log": dict(zip(_NAMES, (1.000, 1.005, 1.01, 1.08, 1.06, 1.08, 1.40, 1.05, 1.05), strict=True)),
    "strict": dict(zip(_NAMES, (0.75, 1.01, 1.02, 1.10, 1.08, 1.10, 1.40, 1.05, 1.05), strict=True)),
}
BYTES = {"a live session": 1024, "a closed session's record": 400}
IMPORT, INSTALL = 30, 5  # milliseconds


def milliseconds(name: str) -> int:
    """The aim of a row of the start-up table."""
    return INSTALL if name.startswith("install()") else IMPORT
