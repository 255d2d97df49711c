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


def test_a_baseline_that_is_not_configured_says_how_it_comes_into_use(tmp_path: Path) -> None:
    """The line that is told is the one that helps."""
    (tmp_path / "job.py").write_text(PROGRAM, encoding="utf-8")
    sessionwatch(tmp_path, "run", "--format", "json", "--output", "findings.jsonl", "job.py")
    told = sessionwatch(tmp_path, "baseline", "update", "findings.jsonl").stdout.splitlines()[-1]
    line = told.partition("below [tool.sessionwatch]: ")[2]
    assert line == 'baseline = "sessionwatch-baseline.json"'
    assert sessionwatch(tmp_path, "run", "--fail", "job.py").returncode == 1
    (tmp_path / "pyproject.toml").write_text(f"[tool.sessionwatch]\n{line}\n", encoding="utf-8")
    assert sessionwatch(tmp_path, "run", "--fail", "job.py").returncode == 0
    assert "not in use" not in sessionwatch(tmp_path, "baseline", "update", "findings.jsonl").stdout


def test_a_baseline_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A mistyped name makes nothing known, and nobody should have to find out by themselves."""
    (tmp_path / "job.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.sessionwatch]\nbaseline = "knwon.json"\n', encoding="utf-8")
    (tmp_path / "installs.py").write_text("import sessionwatch\nsessionwatch.install()\n", encoding="utf-8")
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n", encoding="utf-8")
    told = f"the baseline {tmp_path / 'knwon.json'} does not exist yet: no finding is known by it\n"
    ran = sessionwatch(tmp_path, "run", "--fail", "job.py")
    assert (ran.returncode, ran.stderr.splitlines(keepends=True)[0]) == (1, f"sessionwatch: {told}")
    python = [sys.executable, "installs.py"]
    assert subprocess.run(python, cwd=tmp_path, capture_output=True, text=True, timeout=60).stderr == told
    pytest = [sys.executable, "-m", "pytest", "--sessionwatch=log", "-p", "no:cacheprovider"]
    assert told in subprocess.run(pytest, cwd=tmp_path, capture_output=True, text=True, timeout=60).stdout


def test_prune_drops_what_no_longer_happens(tmp_path: Path) -> None:
    """``baseline prune`` keeps only known findings that are still found."""
    (tmp_path / "job.py").write_text(PROGRAM, encoding="utf-8")
    sessionwatch(tmp_path, "run", "--format", "json", "--output", "findings.jsonl", "job.py", "new")
    assert "2 known" in sessionwatch(tmp_path, "baseline", "update", "findings.jsonl").stdout
    sessionwatch(tmp_path, "run", "--format", "json", "--output", "later.jsonl", "job.py")
    assert "1 known findings (before: 2)" in sessionwatch(tmp_path, "baseline", "prune", "later.jsonl").stdout


TWICE = """\
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

engine = create_engine("sqlite://")

def twice():
    session = Session(engine)
    session.execute(text("CREATE TABLE t (x INTEGER)"))
    session.commit()
    session.execute(text("INSERT INTO t VALUES (1)"))
    session.close()
    session = Session(engine)
    session.execute(text("INSERT INTO t VALUES (2)"))
    session.close()  # sessionwatch: allow lost-writes -- a dry run

twice()
"""


def test_one_entry_covers_a_function(tmp_path: Path) -> None:
    """Several lines of a function are one known finding; one that a comment allows does not stand for the others."""
    (tmp_path / "job.py").write_text(TWICE, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.sessionwatch]\nbaseline = "known.json"\n', encoding="utf-8")
    sessionwatch(tmp_path, "run", "--format", "json", "--output", "findings.jsonl", "job.py")
    assert "1 known findings (before: 0)" in sessionwatch(tmp_path, "baseline", "update", "findings.jsonl").stdout
    (tmp_path / "job.py").write_text(TWICE.replace("  # sessionwatch: allow", "  #"), encoding="utf-8")
    passed = sessionwatch(tmp_path, "run", "--fail", "job.py")
    assert (passed.returncode, passed.stderr) == (0, "sessionwatch: no findings, 2 allowed\n")


def test_a_broken_baseline_is_a_clear_error(tmp_path: Path) -> None:
    """A file that is no baseline is named, with status 2."""
    (tmp_path / "sessionwatch-baseline.json").write_text("[]", encoding="utf-8")
    ended = sessionwatch(tmp_path, "baseline", "show")
    assert ended.returncode == 2
    assert "sessionwatch-baseline.json can't be read" in ended.stderr
