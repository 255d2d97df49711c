"""``python -m tests.field``: suites of public projects, bare, in log mode and in strict mode.

It downloads each project's source distribution, makes an environment for it, runs its suite three times, and writes
``tests/field/results.json``; from that and ``verdicts.toml``, which a person writes, comes ``docs/field-test.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
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
    parser.add_argument("--page", action="store_true", help="only write docs/field-test.md from what is there")
    chosen = parser.parse_args(arguments)
    if not chosen.page:
        for project in _chosen(chosen):
            try:
                _measure(project, chosen.work.resolve())
            except FieldError as error:
                print(f"{project.name}: {error}", file=sys.stderr)
    page.write()
    return 0


def _chosen(chosen: argparse.Namespace) -> list[Project]:
    known = table()
    found = []
    for name in chosen.projects or known:
        folder = Path(name)
        if name in known:
            found.append(known[name])
        elif folder.is_dir():
            found.append(Project(folder.resolve().name, "a checkout", "", chosen.tests, folder=folder.resolve()))
        else:
            raise SystemExit(f"{name} is neither a project of the table nor a folder")
    return found


def _measure(project: Project, work: Path) -> None:
    suite = Suite(project, work)
    print(f"{project.name}: preparing", file=sys.stderr)
    suite.prepare()
    runs = {}
    for mode in MODES:
        print(f"{project.name}: {mode}", file=sys.stderr)
        runs[mode] = suite.run(mode)
    results = page.results()
    results[project.name] = {"about": project.about, "requires": project.requires, **_summary(runs)}
    page.RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _summary(runs: dict[str, Run]) -> dict[str, Any]:
    bare = runs["bare"]
    return {
        "tests": len(bare.outcomes),
        "passed": sum(outcome == "passed" for outcome in bare.outcomes.values()),
        "seconds": {mode: round(run.seconds, 1) for mode, run in runs.items()},
        "changed": {mode: _changed(bare, run) for mode, run in runs.items() if mode != "bare"},
        "internal_errors": {mode: run.internal_errors for mode, run in runs.items() if mode != "bare"},
        "findings": _places(runs["log"].findings, runs["strict"].findings),
    }


def _changed(bare: Run, run: Run) -> list[str]:
    names = {*bare.outcomes, *run.outcomes}
    return sorted(name for name in names if bare.outcomes.get(name) != run.outcomes.get(name))


def _places(*runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Distinct findings of both runs: one for each rule and function."""
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
