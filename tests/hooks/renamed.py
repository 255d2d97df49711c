"""Copies of SQLAlchemy's Python sources in which one name is another one throughout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import sqlalchemy

SOURCES = Path(sqlalchemy.__file__).parent
ROOT = Path(__file__).resolve().parents[2]


def copy(folder: Path, name: str, other: str) -> Path:
    """The package in ``folder``, with each ``name`` called ``other``; as Python, without its compiled parts."""
    token = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
    target = folder / "sqlalchemy"
    shutil.copytree(SOURCES, target, ignore=shutil.ignore_patterns("*.so", "*.pyd", "testing"))
    for path in target.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        if token.search(source):
            path.write_text(token.sub(other, source), encoding="utf-8")
    return folder


def python(folder: Path, *module: str) -> subprocess.CompletedProcess[str]:
    """Run a module, with its arguments, in a process that has the copy in ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "SESSIONWATCH_TESTING": ""}
    command = [sys.executable, "-m", *module]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def run(folder: Path) -> dict[str, Any]:
    """What the program of every use prints there; ``stderr`` besides."""
    done = python(folder, "tests.programs.every_use")
    return {**json.loads(done.stdout), "stderr": done.stderr}
