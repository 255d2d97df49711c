"""``python -m tests.field``: suites of public projects, bare, in log mode and in strict mode.

It downloads each project's source distribution, makes an environment for it, runs its suite in the three modes in turn,
several rounds of them, and writes ``tests/field/results.json``; from that and ``verdicts.toml``, which a person writes,
comes ``docs/field-test.md``. What a person adds to a row of the results as ``remarks`` stays until its suite is run
again. A folder stands for the project of its name, or for one of your own.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import page
from .suites import FieldError, Project, Run, Suite, table

MODES = ("bare", "log", "strict")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.field", description=__doc__)
    parser.add_argument("projects", nargs="*", help=f"some of them: {', '.join(table())}; or folders with checkouts")
    parser.add_argument("--work", type=Path, default=Path(".field"), help="folder for sources and environments")
    parser.add_argument("--tests", nargs="*", default=["tests"], help="arguments of pytest for a folder of your own")
    parser.add_argument("--rounds", type=int, default=2, help="how often each mode is run")
    parser.add_argument("--page", action="store_true", help="only write docs/field-test.md from what is there")
    chosen = parser.parse_args(arguments)
    if not chosen.page:
        for project in _chosen(chosen):
            try:
                _measure(Suite(project, chosen.work.resolve()), chosen.rounds)
            except FieldError as error:
                print(f"{project.name}: {error}", file=sys.stderr)
    page.write()
    return 0


def _chosen(chosen: argparse.Namespace) -> list[Project]:
    known = table()
    found = []
    for name in chosen.projects or (name for name, project in known.items() if project.requires):
        folder = Path(name).resolve()
        if name in known and known[name].requires:
            found.append(known[name])
        elif folder.is_dir():
            own = Project(folder.name, "a checkout", chosen.tests)
            found.append(replace(known.get(folder.name.lower(), own), folder=folder))
        else:
            raise SystemExit(f"{name} is neither a project that can be downloaded nor a folder")
    return found


def _measure(suite: Suite, rounds: int) -> None:
    project = suite.project
    print(f"{project.name}: preparing", file=sys.stderr)
    suite.prepare()
    runs: dict[str, list[Run]] = {mode: [] for mode in MODES}
    for number in range(1, rounds + 1):
        for mode in MODES:
            runs[mode].append(run := suite.run(mode))
            print(f"{project.name}: {mode}, round {number}: {run.seconds:.1f} s", file=sys.stderr)
            if "passed" not in runs["bare"][0].outcomes.values():
                raise FieldError("no test passes bare")
    results = page.results()
    source = project.requires or f"a checkout of {project.home}"
    results[project.name] = {"about": project.about, "source": source, **suite.versions(), **_summary(runs)}
    page.RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _summary(runs: dict[str, list[Run]]) -> dict[str, Any]:
    bare, watched = runs["bare"], {mode: ran for mode, ran in runs.items() if mode != "bare"}
    return {
        "tests": len(bare[0].outcomes),
        "passed": sum(outcome == "passed" for outcome in bare[0].outcomes.values()),
        "seconds": {mode: round(min(run.seconds for run in ran), 1) for mode, ran in runs.items()},
        "changed": {mode: _changed(bare, ran) for mode, ran in watched.items()},
        "internal_errors": {mode: max(run.internal_errors for run in ran) for mode, ran in watched.items()},
        "findings": _places(*(run.findings for ran in watched.values() for run in ran)),
    }


def _changed(bare: list[Run], watched: list[Run]) -> list[str]:
    """Tests that ended in a way in which they never end bare."""
    names = {name for run in (*bare, *watched) for name in run.outcomes}
    return sorted(name for name in names if not _seen(name, watched) <= _seen(name, bare))


def _seen(name: str, runs: list[Run]) -> set[str | None]:
    return {run.outcomes.get(name) for run in runs}


def _places(*runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Distinct findings of all runs: one for each rule and function."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for findings in runs:
        for one in findings:
            key = one["rule"], str(one["path"]), str(one["function"])
            place = found.setdefault(
                key,
                {
                    **{name: one[name] for name in ("rule", "severity", "path", "line", "function", "message")},
                    "count": 0,
                },
            )
            place["count"] = max(place["count"], one["count"])
    return sorted(found.values(), key=lambda one: (one["rule"], one["path"] or "", one["line"] or 0))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
