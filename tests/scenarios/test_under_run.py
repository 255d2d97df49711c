"""All scenarios under `sessionwatch run`: unmodified programs in a process of their own, found and silent as before."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scenarios.harness import every_rule, listed, marks

ROOT = Path(__file__).parents[2]
SCENARIOS = ["s1_orchestrator", "s2_answered_201", "s3_migration", "s4_task_manager"]
SLOW_PLANNING = {"PLANNING_SECONDS": "4", "SESSIONWATCH_SETTINGS": "long-session.idle=2"}
pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def run(scenario: str, half: str, url: str, folder: Path, rules: dict[str, str]) -> set[tuple[str, str, int]]:
    """Rule, file name and line of each finding; the program itself must end well."""
    output = folder / "findings.jsonl"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SESSIONWATCH")}
    chosen = ",".join(f"{rule}={level}" for rule, level in rules.items())
    program = ["-m", f"tests.scenarios.{scenario}.{half}"]
    ended = subprocess.run(
        [sys.executable, "-m", "sessionwatch", "run", "--format", "json", "--output", str(output), *program],
        cwd=ROOT,
        env=inherited | SLOW_PLANNING | {"DATABASE_URL": url, "SESSIONWATCH_RULES": chosen},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    return {(finding["rule"], Path(finding["path"] or "").name, finding["line"]) for finding in found}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_faulty_one_is_found_at_its_marks(scenario: str, url: str, tmp_path: Path) -> None:
    """`sessionwatch run` finds exactly the marked lines, with the listed rules on."""
    faulty = importlib.import_module(f"tests.scenarios.{scenario}.faulty")
    rules = dict.fromkeys(listed(faulty), "log")
    assert run(scenario, "faulty", url, tmp_path, rules) == marks(faulty, url)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_repaired_one_is_silent(scenario: str, url: str, tmp_path: Path) -> None:
    """`sessionwatch run` finds nothing, with every rule on."""
    assert run(scenario, "repaired", url, tmp_path, every_rule("log")) == set()
