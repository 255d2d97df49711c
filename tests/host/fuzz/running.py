"""A run of the machine over a number of steps."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test

import sessionwatch

from .machine import Machine
from .program import OnLoop, Program

PER_EXAMPLE = 50
PROGRAMS = {"sync": Program, "async": OnLoop}


def run(kind: str, steps: int, derandomize: bool, shrink: bool = True) -> int:
    """Raises what disagreed, with the steps to it; else returns how many were taken.

    With ``shrink``, the shortest program that disagrees is looked for.
    """
    taken = [0]

    class Counted(Machine):
        def check_invariants(self, *args: object, **kwargs: object) -> None:
            taken[0] += 1
            super().check_invariants(*args, **kwargs)  # type: ignore[arg-type]

    wanted = settings(
        max_examples=max(steps // PER_EXAMPLE, 1),
        stateful_step_count=PER_EXAMPLE,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        derandomize=derandomize,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        verbosity=Verbosity.normal,
    )
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # tells of each connection that is dropped
    with tempfile.TemporaryDirectory() as folder:
        program = PROGRAMS[kind](Path(folder))
        with sessionwatch.watching("log", log=False, rules={"long-session": "off"}) as watch:
            Counted.program, Counted.watch = program, watch
            try:
                run_state_machine_as_test(Counted, settings=wanted)
            finally:
                program.close()
    return taken[0]
