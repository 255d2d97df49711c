"""``docs/adopting.md``: its three commands, on a generated application with many findings."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests import adopted_app

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "adopting.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Those of the page's first block."""
    block = re.search(r"```console\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    return [line.removeprefix("$ ").partition("  #")[0].strip() for line in block[1].splitlines()]


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    name, *arguments = shlex.split(command)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SESSIONWATCH", "PYTEST", "CI"))}
    argv = [sys.executable, "-m", name, *arguments, "-q", "-p", "no:cacheprovider"]
    return subprocess.run(
        argv, cwd=folder, env={**env, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300, check=False
    )


def test_three_commands(tmp_path: Path) -> None:
    """Known, green, and one new caller of a known helper is the one thing that is reported."""
    adopted_app.write(tmp_path)
    source = "".join(path.read_text() for path in (tmp_path / "app").rglob("*.py"))
    assert source.count("\nclass Model") == 60
    assert len(re.findall(r"SessionLocal(?:\.begin)?\(\)|remember\(Model\d+\)", source)) >= 500
    look, take, hold = commands()
    looked = run(tmp_path, look)
    assert looked.returncode == 0
    taken = run(tmp_path, take)
    assert taken.returncode == 0
    known = json.loads((tmp_path / "sessionwatch-baseline.json").read_text())["findings"]
    assert len(known) > 100
    assert f"{len(known)} known findings (before: 0)" in taken.stdout
    held = run(tmp_path, hold)
    assert held.returncode == 0, held.stdout[-3000:]
    assert "sessionwatch: no findings, " in held.stdout
    adopted_app.add_a_bug(tmp_path)
    broken = run(tmp_path, hold)
    assert broken.returncode == 1
    assert re.findall(r"^(?:FAILED|ERROR) .*", broken.stdout, re.MULTILINE) == [
        line for line in broken.stdout.splitlines() if line.startswith("FAILED tests/test_payments.py::test_pay - lost")
    ]
    assert "1 failed, 500 passed" in broken.stdout
    assert "called from  app/services/payments.py:4 in pay" in broken.stdout
    assert len(re.findall(r"^[A-Z]+ +(?:FAULT |advice) .*\bnew$", broken.stdout, re.MULTILINE)) <= 1
