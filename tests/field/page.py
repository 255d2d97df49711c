"""``docs/field-test.md``, from the results of the runs and from what a person says of each finding."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS, VERDICTS, REPORTS = HERE / "results.json", HERE / "verdicts.toml", HERE / "reports.toml"
PAGE = HERE.parents[1] / "docs" / "field-test.md"

HEAD = """\
# The field test

Suites of public projects that nobody here wrote, or parts of them (`tests/field/projects.toml` has the files and
options), run bare, in log mode and in strict mode by `python -m tests.field`. That command prints the figures. Each
row is of the state of sessionwatch at which its suite was last run, which need not be the newest one
(`git log -p tests/field/results.json`). "Seen" is how often a run met the finding; where several of one rule point to
one function, how often it met the most frequent of them.

What a person wrote: whether a finding is true, once for each rule and function, from reading the code
(`tests/field/verdicts.toml`); what could be reported, at the end; and the remarks below the table. A finding that is
false becomes a test `ignores_…` and is repaired; its line stays until the suite is run again.

In log mode no outcome may change. In strict mode a fault fails its test. The modes are run in turn, and a ratio
compares the least processor time of each mode with that of the bare suite, start of the interpreter included: in a
suite of a few seconds most of it is the start of the plugin, and in strict mode the reports of the tests that fail.
"""
REPORTED = """\
Written by a person, on 2026-11-28, from the findings and the code: true findings in projects that are maintained.
"""
OLDER = """\
No row above: {names}. Their findings are of earlier states of sessionwatch, and their suites were not run again.
"""


def results() -> dict[str, Any]:
    """What the runs said, by project."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return found


def verdicts() -> dict[str, dict[str, str]]:
    """What a person says of each finding: by project, and by rule, file and function."""
    return tomllib.loads(VERDICTS.read_text(encoding="utf-8")) if VERDICTS.exists() else {}


def reports() -> dict[str, list[dict[str, str]]]:
    """What could be reported to each project: title, place, happens, suggestion."""
    return tomllib.loads(REPORTS.read_text(encoding="utf-8")) if REPORTS.exists() else {}


def key(finding: dict[str, Any]) -> str:
    """What a verdict is filed under."""
    return f"{finding['rule']} {finding['path']} {finding['function']}"


def write() -> None:
    PAGE.write_text(text(), encoding="utf-8")


def text() -> str:
    """The whole page, as Markdown."""
    found, said = results(), verdicts()
    parts = [
        HEAD,
        *_suites(found),
        "",
        *_remarks(found),
        *_share(found, said),
        "",
        *_findings(found, said),
        *_worth_reporting(),
    ]
    return "\n".join(parts)


def _suites(found: dict[str, Any]) -> list[str]:
    rows = [
        "| project | what it is | SQLAlchemy | tests | changed in log | in strict | bare | time of log | of strict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in sorted(found.items()):
        seconds, changed = one["seconds"], one["changed"]
        times = [f"{seconds[mode] / max(seconds['bare'], 0.1):.2f}" for mode in ("log", "strict")]
        tests = f"{one['tests']} ({one['passed']} pass bare)"
        cells = [_source(name, one), one["about"], one["sqlalchemy"], tests]
        cells += [*(str(len(changed[mode])) for mode in ("log", "strict")), f"{seconds['bare']} s", *times]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _remarks(found: dict[str, Any]) -> list[str]:
    """What a person has to say of rows, until their suites are run again; for each remark, of which."""
    said: dict[str, list[str]] = {}
    for name, one in sorted(found.items()):
        for remark in one.get("remarks", ()):
            said.setdefault(remark, []).append(name)
    return [*(f"- {', '.join(names)}: {remark}." for remark, names in said.items()), ""] if said else []


def _source(name: str, one: dict[str, Any]) -> str:
    requires = one["source"]
    return requires.replace("==", " ") if "==" in requires else f"{name} ({requires})"


def _share(found: dict[str, Any], said: dict[str, dict[str, str]]) -> list[str]:
    counts: dict[str, Counter[str]] = {"fault": Counter(), "advice": Counter()}
    for name, one in found.items():
        for finding in one["findings"]:
            verdict = said.get(name, {}).get(key(finding), "not judged")
            counts[finding["severity"]][verdict.partition(":")[0]] += 1
    rows = ["| | true | false | not judged |", "|---|---|---|---|"]
    for severity, kinds in counts.items():
        rows.append(f"| distinct findings, {severity} | {kinds['true']} | {kinds['false']} | {kinds['not judged']} |")
    return rows


def _findings(found: dict[str, Any], said: dict[str, dict[str, str]]) -> list[str]:
    lines = []
    for name, one in sorted(found.items()):
        lines += [f"## {name}", ""]
        if not one["findings"]:
            lines += ["No findings.", ""]
            continue
        lines += ["| rule | place | seen | verdict |", "|---|---|---|---|"]
        for finding in one["findings"]:
            place = f"`{finding['path']}` in `{finding['function']}`"
            verdict = said.get(name, {}).get(key(finding), "not judged")
            lines.append(f"| `{finding['rule']}` | {place} | {finding['count']} | {verdict} |")
        lines.append("")
    return lines


def _worth_reporting() -> list[str]:
    lines = ["## What could be reported", "", REPORTED]
    if older := sorted(reports().keys() - results().keys()):
        lines += [OLDER.format(names=", ".join(older))]
    for name, ones in sorted(reports().items()):
        for one in ones:
            lines += [f"### {name}: {one['title']}", ""]
            paragraphs = one["place"], one["happens"], f"Suggestion: {one['suggestion']}"
            lines += [line for text in paragraphs for line in (text.strip(), "")]
    return lines
