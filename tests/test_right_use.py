"""Right use of sessions yields nothing: no finding, no log record, no exception, no word."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sessionwatch
from sessionwatch.model import Level, Mode
from tests.programs import right_use
from tests.programs.shop import _our_errors_raise  # noqa: F401 (fixture)

PROGRAM = Path(right_use.__file__)
ROOT = PROGRAM.parents[2]
MODES: list[tuple[Mode, dict[str, Level]]] = [
    ("log", {}),
    ("strict", {"detached-touch": "off"}),  # the program serves detached objects on purpose
    ("telemetry", {}),
]


@pytest.mark.parametrize(("mode", "rules"), MODES, ids=[mode for mode, _ in MODES])
def test_right_use_yields_nothing(
    mode: Mode, rules: dict[str, Level], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """More than 60 sessions of mixed right use end without a finding, and without an error of our own."""
    with sessionwatch.watching(mode=mode, rules=rules) as watch:
        right_use.main(tmp_path)
        opened = watch.status()["sessions"]["opened"]
    assert [finding.message for finding in watch.findings] == []
    assert [record for record in caplog.records if record.name == "sessionwatch"] == []
    status = watch.status()
    assert status["internal_errors"] == {}
    assert sum(opened.values()) >= 60
    assert min(opened["sync"], opened["async"]) >= 15
    assert not [outcome for outcome in status["sessions"]["closed"] if outcome.startswith(("lost", "leaked"))]


def test_right_use_by_sessionwatch_run(tmp_path: Path) -> None:
    """``sessionwatch run`` says ``no findings`` over the same program, which prints what it prints alone."""
    folder = tmp_path / "alone"
    folder.mkdir()
    alone = subprocess.run([sys.executable, PROGRAM, folder], capture_output=True, text=True, check=True)
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "SESSIONWATCH_TESTING": "1"}
    command = [
        sys.executable,
        "-m",
        "sessionwatch",
        "run",
        "--mode",
        "strict",
        "--rules",
        "detached-touch=off",
        "--fail",
    ]
    watched = subprocess.run([*command, PROGRAM, tmp_path], capture_output=True, text=True, env=environ, check=False)
    assert (watched.returncode, watched.stdout) == (0, alone.stdout)
    assert watched.stderr.strip() == "sessionwatch: no findings"


def test_nothing_is_silenced_by_the_log_level(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same set-up does see a fault, so its silence means something."""
    with caplog.at_level(logging.WARNING), sessionwatch.watching(mode="log") as watch:
        engine = right_use.enforcing(right_use.create_engine(f"sqlite:///{tmp_path / 'books.db'}"))
        right_use.Base.metadata.create_all(engine)
        with right_use.Session(engine) as session:
            right_use.add_author(session, "lost")
            session.flush()
        engine.dispose()
    assert [finding.rule for finding in watch.findings] == ["lost-writes"]
    assert len(caplog.records) == 1
