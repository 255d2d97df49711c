"""What the pytest plugin costs a suite: processor time of a whole run, against the same run without the plugin.

Two suites: that of Flask-SQLAlchemy, from its source distribution, and one whose tests do nothing, beside a session
that is open and a heap of an application's size.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import children
from .databases import UnavailableError
from .examples import cache
from .tables import table

Say = Callable[[str], None]
Seconds = dict[str, dict[str, list[float]]]  # by suite and mode: of each round

PLAIN = ("-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:sessionwatch", "-W", "ignore")
MODES: dict[str, tuple[str, ...]] = {
    "bare": (),
    **{mode: ("-p", "sessionwatch.pytest_plugin", f"--sessionwatch={mode}") for mode in ("log", "strict", "telemetry")},
}
REAL, IDLE = "Flask-SQLAlchemy's own tests", "200 tests that do nothing"

IDLE_TESTS = """
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

ballast = [{"n": n, "l": [n]} for n in range(300_000)]
session = Session(create_engine("sqlite://"))
session.execute(text("select 1"))

@pytest.mark.parametrize("n", range(200))
def test_nothing(n):
    assert n >= 0
"""


def measure(rounds: int, say: Say = lambda line: None) -> Seconds:
    """The modes take turns. Raises `UnavailableError` where the real suite can't be had."""
    folders = {IDLE: _idle(), REAL: fetch(say)}
    found: Seconds = {suite: {mode: [] for mode in MODES} for suite in folders}
    for number in range(rounds):
        for suite, folder in folders.items():
            for mode, options in MODES.items():
                found[suite][mode].append(_seconds(folder, options))
            say(f"round {number + 1} of {rounds}: {suite}")
    return found


def text(found: Seconds) -> str:
    """Medians: seconds of the bare run, and ratios to it."""
    rows = []
    for suite, times in found.items():
        medians = {mode: statistics.median(seconds) for mode, seconds in times.items()}
        bare = medians.pop("bare")
        rows.append([suite, f"{bare:.1f}", *(f"{seconds / bare:.2f}" for seconds in medians.values())])
    modes = [mode for mode in MODES if mode != "bare"]
    aims = ["≤ 1.3" if mode == "strict" else "" for mode in modes]
    return table(["processor time of pytest", "bare, s", *modes], [*rows, ["aim", "", *aims]])


def fetch(say: Say) -> Path:
    """The folder of Flask-SQLAlchemy's source distribution, of the version that is installed."""
    try:
        wanted = version("flask-sqlalchemy")
    except PackageNotFoundError as error:
        raise UnavailableError("flask-sqlalchemy is not installed (extra `dev`)") from error
    folder = cache() / f"flask-sqlalchemy-{wanted}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
            with tarfile.open(_download(wanted, Path(fresh), say)) as tar:
                tar.extractall(Path(fresh) / "all", filter="data")
            (inner,) = (Path(fresh) / "all").iterdir()
            inner.rename(folder)
    return folder


def _download(wanted: str, folder: Path, say: Say) -> Path:
    say(f"downloading the source distribution of Flask-SQLAlchemy {wanted}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run([*command, "--dest", folder, f"flask-sqlalchemy=={wanted}"], capture_output=True, text=True)
    found = list(folder.glob("*.tar.gz"))
    if done.returncode or not found:
        reason = (done.stderr.strip() or "no file").splitlines()[-1]
        raise UnavailableError(f"the source distribution of Flask-SQLAlchemy could not be downloaded: {reason}")
    return found[0]


def _idle() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="benchmarks-suite-"))
    (folder / "tests").mkdir()
    (folder / "tests" / "test_idle.py").write_text(IDLE_TESTS)
    return folder


def _seconds(folder: Path, options: tuple[str, ...]) -> float:
    """Processor time of one run, user and system."""
    command = [sys.executable, "-m", "pytest", *PLAIN, "--rootdir", str(folder), *options, "tests"]
    process = subprocess.Popen(
        command, cwd=folder, env=children.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with status {process.returncode} in {folder}")
    return usage.ru_utime + usage.ru_stime
