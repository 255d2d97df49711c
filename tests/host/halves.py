"""One run of pytest over a share of SQLAlchemy's tests, bare or watched, in a process group of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import outcomes
from installation import Host, Say
from outcomes import BadRunError, Run

PLUGIN = Path(__file__).resolve().parent / "plugin"
FLAGS = ("--nomemory", "--notimingintensive", "--nomypy", "-p", "no:cacheprovider", "--maxfail=0")
FOREIGN = ("PYTHON", "PYTEST", "SESSIONWATCH_", "COVERAGE", "SQLALCHEMY", "OTEL_")  # the caller's, not passed on
TICK = 15.0  # seconds between two progress lines
DUMP_AFTER = 240  # seconds in one test, after which pytest prints the stack of every thread
GIVE_UP_AFTER = 3600.0  # seconds for one part


@dataclass(frozen=True)
class Part:
    """A share of SQLAlchemy's tests, and the database that it runs on (a name in its setup.cfg).

    ``paths`` are patterns, because a few files have other names in other releases.
    """

    name: str
    db: str
    paths: tuple[str, ...]
    flags: tuple[str, ...] = ()

    def found(self, src: Path) -> list[str]:
        """The files and folders below ``src``; BadRunError for one that is not there."""
        found = {pattern: sorted(str(path.relative_to(src)) for path in src.glob(pattern)) for pattern in self.paths}
        for pattern, paths in found.items():
            if not paths:
                raise BadRunError(f"no {pattern} among SQLAlchemy's tests in {src}")
        return [path for paths in found.values() for path in paths]


@dataclass(frozen=True)
class Half:
    """One run of pytest over one part. ``only`` holds the node ids to run, where not all of them do."""

    part: Part
    host: Host
    files: Path  # the start of the names of its files: .jsonl, .log, .findings.jsonl, .internal.txt
    via: str  # bare, plugin or run
    mode: str
    workers: int
    rules: str = ""  # as in SESSIONWATCH_RULES
    only: tuple[str, ...] = ()
    order: str = ""  # a number to shuffle the tests by

    def file(self, ending: str) -> Path:
        return self.files.with_name(f"{self.files.name}.{ending}")

    @property
    def name(self) -> str:
        return self.files.name.replace(".", " ")

    def command(self) -> list[str]:
        """The command line; sessionwatch is in it only where this half is watched."""
        python, pytest = str(self.host.python), ["-m", "pytest", *self.arguments()]
        if self.via == "plugin":
            return [python, *pytest, f"--sessionwatch={self.mode}"]
        if self.via == "run":
            watch = ["--mode", self.mode, "--format", "json", "--output", str(self.file("findings.jsonl"))]
            return [python, "-m", "sessionwatch", "run", *watch, *pytest]
        return [python, *pytest]

    def arguments(self) -> list[str]:
        """Pytest's arguments, equal for the bare and the watched half."""
        workers = ["-n", str(self.workers)] if self.workers else ["-p", "no:xdist"]
        dump = ["-o", f"faulthandler_timeout={DUMP_AFTER}"]
        paths = sorted({test.split("::")[0] for test in self.only}) or self.part.found(self.host.src)
        return ["-p", "host_recorder", *workers, *FLAGS, *dump, *self.part.flags, "--db", self.part.db, *paths]

    def environment(self) -> dict[str, str]:
        """The environment: nothing of the caller's that concerns Python, pytest, SQLAlchemy or sessionwatch."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        env["PYTHONNOUSERSITE"] = "1"  # as SQLAlchemy tests its wheels: the installed library, both ways
        env["PYTHONPATH"] = str(PLUGIN)
        env["PYTHONHASHSEED"] = "0"
        env["HOST_OUTCOMES"] = str(self.file("jsonl"))
        if self.only:
            self.file("only.txt").write_text("\n".join(self.only), encoding="utf-8")
            env["HOST_ONLY"] = str(self.file("only.txt"))
        if self.order:
            env["HOST_ORDER"] = self.order
        if self.via != "bare":
            env["SESSIONWATCH_INTERNAL_ERRORS"] = str(self.file("internal.txt"))
            env["SESSIONWATCH_RULES"] = self.rules
        if self.via == "plugin":
            env["SESSIONWATCH_OUTPUT"] = str(self.file("findings.jsonl"))
        return env

    def run(self, say: Say) -> Run:
        """Run it to its end and read its outcomes; BadRunError if it broke off."""
        self.files.parent.mkdir(parents=True, exist_ok=True)
        for old in self.files.parent.glob(f"{self.files.name}.*"):
            old.unlink()
        self.start_and_wait(say)
        run = outcomes.read(self.file("jsonl")) if self.file("jsonl").exists() else Run()
        try:
            run.check(self.name)
        except BadRunError as error:
            raise BadRunError(f"{error}; the end of {self.file('log')}:\n{tail(self.file('log'))}") from None
        say(f"{self.name}: {run.told()}")
        return run

    def start_and_wait(self, say: Say) -> None:
        with self.file("log").open("w", encoding="utf-8") as log:
            log.write(" ".join(self.command()) + "\n\n")
            log.flush()
            process = subprocess.Popen(
                self.command(),
                cwd=self.host.src,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self.wait(process, say)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def wait(self, process: subprocess.Popen[bytes], say: Say) -> None:
        """Wait for the end, with a progress line now and then; BadRunError when it takes too long."""
        began = time.monotonic()
        while time.monotonic() - began < GIVE_UP_AFTER:
            try:
                process.wait(TICK)
                return
            except subprocess.TimeoutExpired:
                say(f"{self.name}: {begun_tests(self.file('jsonl'))} tests begun")
        raise BadRunError(f"{self.name} was still running after {GIVE_UP_AFTER:.0f} s; see {self.file('log')}")

    def findings(self) -> list[Path]:
        """The files of findings; a worker may have one of its own beside the main one."""
        return sorted(self.files.parent.glob(f"{self.files.name}.findings*.jsonl*"))

    def internal_errors(self) -> list[str]:
        """The line that names the error, of each traceback that sessionwatch wrote about itself."""
        path = self.file("internal.txt")
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return [named_error(piece) for piece in text.split("Traceback (most recent call last):")[1:]]


def named_error(traceback: str) -> str:
    """The line of a traceback that names the error: the first one that is not indented."""
    return next((line for line in traceback.splitlines() if line and not line[0].isspace()), "an error without a name")


def begun_tests(path: Path) -> int:
    """The number of tests that have begun: each has one report of its set-up."""
    return path.read_bytes().count(b'"phase": "setup"') if path.exists() else 0


def tail(path: Path, number: int = 25) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-number:]
    return "\n".join(f"  {line}" for line in lines)
