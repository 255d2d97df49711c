"""Start a whole program bare or under ``sessionwatch run``, talk to it, and read what it left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 180.0  # seconds for a program to answer or to end; only one that hangs needs them
Finding = dict[str, Any]
Value = TypeVar("Value")


@dataclass
class Program:
    """A running program; its stdout and stderr go to files in ``folder``."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")

    def stop(self, number: signal.Signals) -> int:
        """Send the signal and return the exit status, as `subprocess` gives it."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def environment(**extra: str) -> dict[str, str]:
    """The environment of a user who activated this interpreter's virtual environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SESSIONWATCH", "PYTEST"))}
    inherited["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", "")])
    return inherited | {"PYTHONDONTWRITEBYTECODE": "1"} | extra


@contextmanager
def started(command: list[str], *, cwd: Path, folder: Path, env: dict[str, str]) -> Iterator[Program]:
    """Start ``command``; whatever happens in the block, the program and its children are gone after it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        process = subprocess.Popen(command, cwd=cwd, env=env, start_new_session=True, **streams)
    try:
        yield Program(process, folder)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def eventually(ask: Callable[[], Value | None], program: Program) -> Value:
    """Ask until there is an answer; fails with the program's own words when it ends or time runs out."""
    deadline = time.monotonic() + PATIENCE
    while (answer := ask()) is None:
        if program.process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"no answer (exit status {program.process.poll()}):\n{program.stderr[-4000:]}")
        time.sleep(0.05)
    return answer


def settled(ask: Callable[[], Value], wanted: Value) -> Value:
    """Ask until this is the answer; what was answered last, so that a test that compares them shows what differs."""
    deadline = time.monotonic() + PATIENCE
    while (answer := ask()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


def uvicorn_address(program: Program) -> str:
    """The address that uvicorn, started with ``--port 0``, says that it listens on, once it does."""

    def announced() -> str | None:
        found = re.search(r"running on http://127.0.0.1:(\d+)", program.stderr)
        return f"http://127.0.0.1:{found[1]}" if found and _accepts(int(found[1])) else None

    return eventually(announced, program)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def findings_in(path: Path) -> list[Finding]:
    """The complete lines of a JSON Lines file, in order; [] while there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def marked(path: Path, pattern: str) -> list[tuple[str, int]]:
    """What follows ``pattern`` in the comments of a source file, each with its line."""
    lines = enumerate(path.read_text().splitlines(), start=1)
    return [(found[1], number) for number, line in lines if (found := re.search(rf"# {pattern}([\w-]+)$", line))]
