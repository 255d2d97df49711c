"""Two small projects of several files: one as it is often found, and one that does the same things right.

``projects/NAME.txt`` holds the files, each behind ``=== path``; ``# found:`` marks what the audit has to say of a line.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sessionwatch.audit.analyse import audit

PROJECTS = Path(__file__).parent / "projects"
MARK = re.compile(r"  # found: (.+)$")


def unpacked(name: str, folder: Path) -> set[tuple[str, int, str]]:
    """Write the project's files; path, line, and what has to be found there."""
    marks = set()
    for part in (PROJECTS / f"{name}.txt").read_text(encoding="utf-8").split("=== ")[1:]:
        path, _, text = part.partition("\n")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            if match := MARK.search(line):
                marks |= {(path, number, each) for each in match[1].split(", ")}
    return marks


@pytest.mark.parametrize("name", ["wrong", "right"])
def test_project(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across files, each anti-pattern is found at its line with its confidence, and nothing else is."""
    marks = unpacked(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    entries = audit("app", workers=1).entries
    assert {(each.path, each.line, f"{each.pattern} {each.confidence}") for each in entries} == marks


def test_the_right_project_is_certain_of_nothing() -> None:
    """No mark of the right project says certain."""
    assert " certain" not in (PROJECTS / "right.txt").read_text(encoding="utf-8")
