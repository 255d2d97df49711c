"""Projects of npm that tests need: installed from their lock files, once a run."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tools import tool

PATIENCE = 900.0  # seconds for npm, which downloads and builds


def installed(project: Path, factory: pytest.TempPathFactory, *scripts: str) -> Path:
    """A copy of ``project`` with its packages, after ``scripts`` of its own; the first worker that asks makes it."""
    npm, base = tool("npm"), factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"npm-{project.name}"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = folder / "made"
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
            folder.mkdir()
            for path in project.glob("*.*"):
                shutil.copy(path, folder)
            run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=5"], folder)
            for script in scripts:
                run([npm, "run", script], folder)
            made.touch()
    return folder


def run(command: list[str], folder: Path) -> None:
    """A command that has to end well."""
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stdout + ended.stderr
