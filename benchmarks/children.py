"""How the processes that measure are started: the same environment for all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_FOREIGN = ("SESSIONWATCH_", "PYTHON", "OTEL_", "SENTRY_", "LOGFIRE_", "COVERAGE", "PYTEST")


def environment() -> dict[str, str]:
    """The caller's environment without what would change a count; hashes are the same in every process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return kept | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def driver(part: str, mode: str, *options: str) -> list[str]:
    """The command of a `benchmarks.driver`."""
    return [sys.executable, "-m", "benchmarks.driver", part, "--mode", mode, *options]


class Worker:
    """A driver that answers requests."""

    def __init__(self, mode: str, module: str = "benchmarks.driver", *options: str) -> None:
        command = [sys.executable, "-m", module, "serve", "--mode", mode, *options]
        self.mode = mode
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT, env=environment()
        )

    def answer(self) -> dict[str, Any]:
        """The next answer; ``{"cannot": reason}`` where the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            return {"cannot": f"its process ended with status {self._process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
        except BrokenPipeError:
            return {"cannot": f"its process ended with status {self._process.wait()}"}
        return self.answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)
