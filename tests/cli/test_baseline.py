"""``sessionwatch baseline``: known findings are kept in a file, and only new ones count."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """\
import sys
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

engine = create_engine("sqlite://")

def old():
    session = Session(engine)
    session.execute(text("CREATE TABLE t (x INTEGER)"))
    session.commit()
    session.execute(text("INSERT INTO t VALUES (1)"))
    session.close()

def new():
    session = Session(engine)
    session.execute(text("INSERT INTO t VALUES (2)"))
    session.close()

old()
if "new" in sys.argv:
    new()
"""


def sessionwatch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in ``folder``."""
    command = [sys.executable, "-m", "sessionwatch", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_a_known_finding_no_longer_fails(tmp_path: Path) -> None:
    """After ``baseline update`` the old finding passes --fail, and a new one does not."""
    (tmp_path / "job.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.sessionwatch]\nbaseline = "known.json"\n', encoding="utf-8")
    found = sessionwatch(tmp_path, "run", "--fail", "--format", "json", "--output", "findings.jsonl", "job.py")
    assert found.returncode == 1
    updated = sessionwatch(tmp_path, "baseline", "update", "findings.jsonl")
    assert (updated.returncode, "1 known findings (before: 0)" in updated.stdout) == (0, True)
    assert "lost-writes  job.py in old" in sessionwatch(tmp_path, "baseline", "show").stdout
    assert sessionwatch(tmp_path, "run", "--fail", "job.py").returncode == 0
    assert sessionwatch(tmp_path, "run", "--fail", "job.py", "new").returncode == 1


def test_prune_drops_what_no_longer_happens(tmp_path: Path) -> None:
    """``baseline prune`` keeps only known findings that are still found."""
    (tmp_path / "job.py").write_text(PROGRAM, encoding="utf-8")
    sessionwatch(tmp_path, "run", "--format", "json", "--output", "findings.jsonl", "job.py", "new")
    assert "2 known" in sessionwatch(tmp_path, "baseline", "update", "findings.jsonl").stdout
    sessionwatch(tmp_path, "run", "--format", "json", "--output", "later.jsonl", "job.py")
    assert "1 known findings (before: 2)" in sessionwatch(tmp_path, "baseline", "prune", "later.jsonl").stdout


def test_a_broken_baseline_is_a_clear_error(tmp_path: Path) -> None:
    """A file that is no baseline is named, with status 2."""
    (tmp_path / "sessionwatch-baseline.json").write_text("[]", encoding="utf-8")
    ended = sessionwatch(tmp_path, "baseline", "show")
    assert ended.returncode == 2
    assert "sessionwatch-baseline.json can't be read" in ended.stderr
