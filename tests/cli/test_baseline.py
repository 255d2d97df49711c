"""``sessionwatch baseline``: known findings are kept in a file, and only new ones count."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


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
    assert subprocess.run(python, cwd=tmp_path, capture_output=True, text=True, timeout=300).stderr == told
    tests = [sys.executable, "-m", "pytest", "--sessionwatch=log", "-p", "no:cacheprovider"]
    assert told in subprocess.run(tests, cwd=tmp_path, capture_output=True, text=True, timeout=300).stdout


def test_prune_drops_what_no_longer_happens(tmp_path: Path) -> None:
    """``baseline prune`` keeps only known findings that are still found."""
    (tmp_path / "job.py").write_text(PROGRAM, encoding="utf-8")
    sessionwatch(tmp_path, "run", "--format", "json", "--output", "findings.jsonl", "job.py", "new")
    assert "2 known" in sessionwatch(tmp_path, "baseline", "update", "findings.jsonl").stdout
    sessionwatch(tmp_path, "run", "--format", "json", "--output", "later.jsonl", "job.py")
    assert "1 known findings (before: 2)" in sessionwatch(tmp_path, "baseline", "prune", "later.jsonl").stdout


def test_it_does_not_matter_where_a_program_is_started(tmp_path: Path) -> None:
    """What is known at the root of the project is known below it, to a run and to prune."""
    (tmp_path / "job.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.sessionwatch]\nbaseline = "known.json"\n', encoding="utf-8")
    below = tmp_path / "scripts"
    below.mkdir()
    sessionwatch(tmp_path, "run", "--format", "json", "--output", "findings.jsonl", "job.py")
    sessionwatch(tmp_path, "baseline", "update", "findings.jsonl")
    known = (tmp_path / "known.json").read_text(encoding="utf-8")
    ran = sessionwatch(below, "run", "--fail", "--format", "json", "--output", "findings.jsonl", "../job.py")
    assert (ran.returncode, "no findings, 1 known" in ran.stderr) == (0, True)
    assert json.loads((below / "findings.jsonl").read_text())["path"] == str(tmp_path / "job.py")
    sessionwatch(below, "baseline", "prune", "findings.jsonl")
    assert (tmp_path / "known.json").read_text(encoding="utf-8") == known


def test_an_update_from_another_folder_leaves_what_is_known_as_it_is(tmp_path: Path) -> None:
    """A line's path is seen from where its program was started; that is no reason to write the entry anew."""
    (tmp_path / "job.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.sessionwatch]\nbaseline = "known.json"\n', encoding="utf-8")
    below = tmp_path / "scripts"
    below.mkdir()
    sessionwatch(tmp_path, "run", "--format", "json", "--output", "findings.jsonl", "job.py")
    sessionwatch(tmp_path, "baseline", "update", "findings.jsonl")
    known = (tmp_path / "known.json").read_text(encoding="utf-8")
    elsewhere = json.loads((tmp_path / "findings.jsonl").read_text()) | {"path": str(tmp_path / "job.py")}
    (below / "findings.jsonl").write_text(json.dumps(elsewhere) + "\n", encoding="utf-8")
    assert "1 known findings (before: 1)" in sessionwatch(below, "baseline", "update", "findings.jsonl").stdout
    assert (tmp_path / "known.json").read_text(encoding="utf-8") == known


def test_a_setting_is_known_in_every_folder(tmp_path: Path) -> None:
    """``sessionwatch check`` looks into the baseline as the others do."""
    quiet = "from sqlalchemy.orm import sessionmaker\nquiet = sessionmaker(autoflush=False)\n"
    (tmp_path / "db.py").write_text(quiet, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.sessionwatch]\nbaseline = "known.json"\n', encoding="utf-8")
    (tmp_path / "findings.jsonl").write_text(
        sessionwatch(tmp_path, "check", "db:quiet", "--format", "json").stdout, encoding="utf-8"
    )
    sessionwatch(tmp_path, "baseline", "update", "findings.jsonl")
    below = tmp_path / "scripts"
    below.mkdir()
    command = [sys.executable, "-m", "sessionwatch", "check", "db:quiet"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(command, cwd=below, env=env, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout) == (0, "sessionwatch: no findings, 1 known\n")


def test_a_baseline_that_is_not_configured_lies_at_the_root(tmp_path: Path) -> None:
    """So does the line that puts it in use, which pyproject.toml takes from there."""
    (tmp_path / "job.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'shop'\n", encoding="utf-8")
    below = tmp_path / "scripts"
    below.mkdir()
    sessionwatch(below, "run", "--format", "json", "--output", "findings.jsonl", "../job.py")
    told = sessionwatch(below, "baseline", "update", "findings.jsonl").stdout.splitlines()
    assert told[0] == f"{tmp_path / 'sessionwatch-baseline.json'}: 1 known findings (before: 0)"
    assert told[1].endswith(': baseline = "sessionwatch-baseline.json"')


TOUCHES = """\
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

class Base(DeclarativeBase): ...
class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)

engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add(Order())
    session.commit()

def touch():
    with Session(engine) as session:
        order = session.get(Order, 1)
    return order.id

def lose():
    session = Session(engine)
    session.add(Order())
    session.flush()
    session.close()

try:
    touch()
except Exception:
    pass
try:
    lose()
except Exception:
    pass
"""
KEPT = "kept 1 of rules that are off in mode {}: detached-touch ({})"


@pytest.fixture
def touched(tmp_path: Path) -> Path:
    """A folder whose baseline knows a finding of a rule that is off in mode log, and another one."""
    (tmp_path / "job.py").write_text(TOUCHES, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.sessionwatch]\nbaseline = "known.json"\n', encoding="utf-8")
    sessionwatch(tmp_path, "run", "--mode", "strict", "--format", "json", "--output", "strict.jsonl", "job.py")
    assert "2 known" in sessionwatch(tmp_path, "baseline", "update", "strict.jsonl").stdout
    return tmp_path


@pytest.mark.parametrize("mode", ["log", "telemetry"])
def test_prune_keeps_what_could_not_be_found(touched: Path, mode: str) -> None:
    """An entry of a rule that was off in the run's mode stays, and a line says why and what to do."""
    sessionwatch(touched, "run", "--mode", mode, "--format", "json", "--output", "later.jsonl", "job.py")
    told = sessionwatch(touched, "baseline", "prune", "later.jsonl").stdout.splitlines()
    assert told[0].endswith("known.json: 2 known findings (before: 2)")
    assert told[1:] == [KEPT.format(mode, "prune them with a file of a run in strict")]


def test_prune_drops_what_is_mended_of_every_rule_that_was_on(touched: Path) -> None:
    """Lines of several modes tell of the rules of all of them."""
    (touched / "job.py").write_text(TOUCHES.replace("    touch()", "    pass"), encoding="utf-8")
    for mode in ("strict", "log"):
        sessionwatch(touched, "run", "--mode", mode, "--format", "json", "--output", f"{mode}.jsonl", "job.py")
    both = (touched / "log.jsonl").read_text() + (touched / "strict.jsonl").read_text()
    (touched / "both.jsonl").write_text(both, encoding="utf-8")
    told = sessionwatch(touched, "baseline", "prune", "both.jsonl").stdout
    assert told == f"{touched / 'known.json'}: 1 known findings (before: 2)\n"


def test_a_rule_that_has_a_line_was_on(touched: Path) -> None:
    """Whatever its mode has it set to: ``--rules`` has the last word in a run."""
    (touched / "job.py").write_text(TOUCHES + TOUCHES.replace("touch()", "other()"), encoding="utf-8")
    sessionwatch(touched, "run", "--mode", "strict", "--format", "json", "--output", "strict.jsonl", "job.py")
    assert "3 known" in sessionwatch(touched, "baseline", "update", "strict.jsonl").stdout
    (touched / "job.py").write_text(TOUCHES, encoding="utf-8")
    options = ["--rules", "detached-touch=log", "--format", "json", "--output", "later.jsonl"]
    sessionwatch(touched, "run", *options, "job.py")
    told = sessionwatch(touched, "baseline", "prune", "later.jsonl").stdout
    assert told == f"{touched / 'known.json'}: 2 known findings (before: 3)\n"


def test_an_empty_file_is_of_the_configured_mode(touched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was found, no line tells the mode: prune says so."""
    (touched / "nothing.jsonl").write_text("", encoding="utf-8")
    told = sessionwatch(touched, "baseline", "prune", "nothing.jsonl").stdout.splitlines()
    way = "the file is empty: set SESSIONWATCH_MODE if its run was in strict"
    assert (told[0].partition(": ")[2], told[1:]) == ("1 known findings (before: 2)", [KEPT.format("log", way)])
    monkeypatch.setenv("SESSIONWATCH_MODE", "strict")
    told = sessionwatch(touched, "baseline", "prune", "nothing.jsonl").stdout.splitlines()
    assert told == [f"{touched / 'known.json'}: 0 known findings (before: 1)"]


def test_prune_keeps_what_the_configuration_switches_off(touched: Path) -> None:
    """A rule that is switched on again finds its baseline there."""
    text = '[tool.sessionwatch]\nbaseline = "known.json"\nrules = { lost-writes = "off" }\n'
    (touched / "pyproject.toml").write_text(text, encoding="utf-8")
    sessionwatch(touched, "run", "--mode", "strict", "--format", "json", "--output", "later.jsonl", "job.py")
    told = sessionwatch(touched, "baseline", "prune", "later.jsonl").stdout.splitlines()
    assert told[0].endswith("2 known findings (before: 2)")
    assert told[1:] == ["kept 1 of rules that are switched off: lost-writes"]


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("pyproject.toml", "[tool.pytest.ini_options]"),
        ("pytest.ini", "[pytest]"),
        (".pytest.ini", "[pytest]"),
        ("tox.ini", "[pytest]"),
        ("setup.cfg", "[tool:pytest]"),
    ],
)
def test_a_baseline_that_pytest_uses_is_in_use(tmp_path: Path, name: str, section: str) -> None:
    """No line is told that would put it in use once more, at the root or below it."""
    (tmp_path / "findings.jsonl").write_text("", encoding="utf-8")
    below = tmp_path / "tests"
    below.mkdir()
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'shop'\n", encoding="utf-8")
    prune = ("baseline", "prune", str(tmp_path / "findings.jsonl"))
    assert "not in use yet" in sessionwatch(below, *prune).stdout
    (tmp_path / name).write_text(f"{section}\nsessionwatch_baseline = 'sessionwatch-baseline.json'\n", encoding="utf-8")
    for folder in (tmp_path, below):
        assert "not in use" not in sessionwatch(folder, *prune).stdout


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
    assert (passed.returncode, passed.stderr) == (0, "sessionwatch: no findings, 2 known\n")


NONE = "it is not a baseline of sessionwatch"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", NONE),
        ("{}", NONE),
        ('{"findings": {}}', NONE),
        ('{"findings": {"fingerprint": "1"}}', NONE),
        ('{"findings": ["fingerprint"]}', NONE),
        ('{"findings": [{"rule": "lost-writes"}]}', NONE),
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    ],
)
def test_a_broken_baseline_is_a_clear_error(tmp_path: Path, text: str, why: str) -> None:
    """A file that is no baseline is named, with the reason and status 2."""
    (tmp_path / "sessionwatch-baseline.json").write_text(text, encoding="utf-8")
    ended = sessionwatch(tmp_path, "baseline", "show")
    told = f"sessionwatch: error: baseline sessionwatch-baseline.json can't be read: {why}\n"
    assert (ended.returncode, ended.stderr) == (2, told)


def test_an_entry_may_have_a_fingerprint_alone(tmp_path: Path) -> None:
    """One that was written by hand is shown, and pruned."""
    (tmp_path / "sessionwatch-baseline.json").write_text('{"findings": [{"fingerprint": "1"}]}', encoding="utf-8")
    (tmp_path / "findings.jsonl").write_text("", encoding="utf-8")
    assert sessionwatch(tmp_path, "baseline", "show").stdout.splitlines()[1] == "?     unknown place in ?  ?"
    assert "0 known findings (before: 1)" in sessionwatch(tmp_path, "baseline", "prune", "findings.jsonl").stdout


def old(finding: dict[str, object]) -> dict[str, object]:
    """The entry that an older version wrote of a finding: by its place alone."""
    parts = (str(finding[name]) for name in ("rule", "subject", "path", "function"))
    joined = "\0".join(parts)
    fields = {name: finding[name] for name in ("rule", "subject", "path", "function")}
    return {"fingerprint": hashlib.sha256(joined.encode()).hexdigest()[:16], **fields}


def test_a_baseline_of_an_older_version_matches_until_it_is_updated(tmp_path: Path) -> None:
    """Its entries know findings by their places; that is said, and the next update writes them anew."""
    (tmp_path / "job.py").write_text(TWICE, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.sessionwatch]\nbaseline = "known.json"\n', encoding="utf-8")
    sessionwatch(tmp_path, "run", "--format", "json", "--output", "findings.jsonl", "job.py")
    finding = json.loads((tmp_path / "findings.jsonl").read_text().splitlines()[0])
    gone = {**old(finding), "fingerprint": "0" * 16}
    (tmp_path / "known.json").write_text(json.dumps({"schema": 1, "findings": [old(finding), gone]}))
    ran = sessionwatch(tmp_path, "run", "--fail", "job.py")
    assert ran.returncode == 0
    assert "older version" in ran.stderr
    assert "no findings, 1 known, 1 allowed" in ran.stderr
    assert "2 known findings (before: 2)" in sessionwatch(tmp_path, "baseline", "update", "findings.jsonl").stdout
    assert "1 known findings (before: 2)" in sessionwatch(tmp_path, "baseline", "prune", "findings.jsonl").stdout
    ran = sessionwatch(tmp_path, "run", "--fail", "job.py")
    assert (ran.returncode, "older version" in ran.stderr) == (0, False)


def test_what_depends_on_time_is_taken_only_where_asked(tmp_path: Path) -> None:
    """How long a transaction lasts is another thing on another machine: --timed takes such findings as known."""
    line = {"rule": "long-session", "message": "it was long", "fingerprint": "1" * 16, "pid": 1, "schema": 2}
    (tmp_path / "findings.jsonl").write_text(json.dumps(line) + "\n")
    assert "0 known" in sessionwatch(tmp_path, "baseline", "update", "findings.jsonl").stdout
    assert "1 known" in sessionwatch(tmp_path, "baseline", "update", "--timed", "findings.jsonl").stdout
