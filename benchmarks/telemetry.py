"""Requests to a FastAPI application on PostgreSQL: bare, with sessionwatch in telemetry, with OpenTelemetry's own.

In one table all modes have the same SDK and the same spans of requests, so that only the tools differ. Where requests
are sampled, one more mode makes the one span that a session has, and nothing else: less can't be done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from . import instructions, sdk, wall, workloads
from .databases import UnavailableError, url_of
from .instructions import Counts
from .wall import Times

Say = Callable[[str], None]
MODES = ("bare", "telemetry", "otel")
DATABASE = "psycopg"


@dataclass
class Requests:
    """What was measured, by `sdk.KINDS`; ``cannot`` says why instructions were not counted."""

    cpu: dict[str, Times] = field(default_factory=dict)
    instructions: dict[str, list[Counts]] = field(default_factory=dict)
    cannot: str | None = None


def measure(
    rounds: int = 30,
    layouts: int = 3,
    jobs: int = 2,
    *,
    kinds: Iterable[str] = sdk.KINDS,
    scale: float = 1.0,
    say: Say = lambda line: None,
) -> Requests:
    """Processor time a request in slices that take turns, and instructions a request. ``scale`` is the latter's."""
    found = Requests()
    names = [workload.name for workload in workloads.REQUESTS]
    for kind in kinds:
        modes = (*MODES, sdk.SPAN) if kind == sdk.SAMPLED else MODES
        found.cpu[kind] = wall.measure(DATABASE, modes, names, rounds, say, clock="cpu", options=["--sdk", kind])
        try:
            with url_of(DATABASE) as url:
                extra = ["--database", url, "--sdk", kind]
                found.instructions[kind] = instructions.measure(
                    modes, names, samples=1, layouts=layouts, scale=scale, jobs=jobs, extra=extra, say=say
                )
        except UnavailableError as error:
            found.cannot = str(error)
    return found


def shares(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """What sessionwatch adds to a request as a share of what OpenTelemetry's own adds, by workload."""
    ours, theirs = ({name: _middle(ratio) - 1 for name, ratio in found.get(mode, {}).items()} for mode in MODES[1:])
    return {name: added / theirs[name] for name, added in ours.items() if theirs.get(name, 0.0) > 0.0}


def _middle(ratio: Any) -> float:
    return float(ratio if isinstance(ratio, float) else ratio[0])
