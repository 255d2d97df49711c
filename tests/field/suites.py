"""One project's suite: its source, an environment of its own, and a run of it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = Path(__file__).with_name("projects.toml")
PATIENCE = 1800.0  # seconds that a suite may take


class FieldError(Exception):
    """A project that can't be had, built or run; the text says why."""


@dataclass
class Project:
    """A row of the table. ``folder`` is a checkout of the user's, where one was given."""

    name: str
    about: str
    tests: list[str]
    requires: str = ""  # a source distribution; empty where only a checkout has the tests
    home: str = ""  # where a checkout comes from
    extras: str = ""
    needs: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass
class Run:
    """What came of one run: the outcome of each test, seconds of processor time, and what was found."""

    outcomes: dict[str, str]
    seconds: float
    findings: list[dict[str, Any]]
    internal_errors: int = 0


def table() -> dict[str, Project]:
    """The projects by name."""
    rows = tomllib.loads(PROJECTS.read_text(encoding="utf-8"))
    return {name: Project(name, **row) for name, row in rows.items()}


class Suite:
    """A project in a work folder: ``source`` and ``environment`` below it."""

    def __init__(self, project: Project, work: Path) -> None:
        self.project = project
        self.place = work / project.name
        self.place.mkdir(parents=True, exist_ok=True)

    @property
    def python(self) -> Path:
        return self.place / "environment" / ("Scripts" if os.name == "nt" else "bin") / "python"

    def prepare(self) -> None:
        """Download, unpack and install what is not there yet."""
        source = self.project.folder or self._downloaded()
        if self.python.exists():
            return
        venv.create(self.place / "environment", with_pip=True)
        self._pip("install", "-q", f"{source}{self.project.extras}", *self.project.needs)
        self._pip("install", "-q", "-e", str(ROOT))

    def _downloaded(self) -> Path:
        source = self.place / "source"
        if not source.exists():
            folder = self.place / "download"
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", folder]
            _call([*command, self.project.requires], self.place)
            (archive,) = folder.glob("*.tar.gz")
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
            (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
            shutil.move(unpacked, source)
        return source

    def _pip(self, *arguments: str) -> None:
        _call([self.python, "-m", "pip", *arguments], self.place)

    def versions(self) -> dict[str, str]:
        """What the suite runs on."""
        ask = "import platform, sqlalchemy; print(platform.python_version(), sqlalchemy.__version__)"
        python, sqlalchemy = subprocess.check_output([self.python, "-c", ask], text=True).split()
        return {"python": python, "sqlalchemy": sqlalchemy}

    def run(self, mode: str) -> Run:
        """Run the suite in ``mode``: bare, log or strict."""
        source = self.project.folder or self.place / "source"
        report, found = self.place / f"{mode}.xml", self.place / f"{mode}.jsonl"
        for path in (report, found):
            path.unlink(missing_ok=True)
        watched = ["-p", "no:sessionwatch"]
        if mode != "bare":
            watched = [f"--sessionwatch={mode}", f"--sessionwatch-output={found}"]
        command = [self.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *watched]
        errors = self.place / f"{mode}.errors"
        errors.unlink(missing_ok=True)
        environment = {**os.environ, **self.project.environment, "SESSIONWATCH_INTERNAL_ERRORS": str(errors)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else each start compiles SQLAlchemy, and us, anew
        before = _children()
        with (self.place / f"{mode}.log").open("wb") as log:
            subprocess.run(
                [*command, *self.project.tests],
                cwd=source,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=PATIENCE,
                check=False,
            )
        if not report.exists():
            raise FieldError(f"{self.project.name}: pytest wrote no report; see {self.place / mode}.log")
        found_tests = dict(outcomes(report))
        if not found_tests:
            raise FieldError(f"{self.project.name}: pytest ran no test; see {self.place / mode}.log")
        internal = errors.read_text(encoding="utf-8").count("--- ") if errors.exists() else 0
        return Run(found_tests, _children() - before, list(_findings(found, source)), internal)


def outcomes(report: Path) -> Iterator[tuple[str, str]]:
    """Each test of a JUnit report with its outcome: passed, failed, error or skipped; errors of teardown come too."""
    seen: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        seen[name] += 1
        suffix = f" ({seen[name]})" if seen[name] > 1 else ""
        yield name + suffix, kinds[0] if kinds else "passed"


def _findings(path: Path, source: Path) -> Iterator[dict[str, Any]]:
    """The findings of a run, each once, with its final count."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        one = json.loads(line)
        one["path"] = str(one["path"]).removeprefix(f"{source}{os.sep}")  # a suite may change its working directory
        found[one["fingerprint"], one["path"], one["line"], one["pid"]] = one
    yield from found.values()


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _call(command: list[Any], place: Path) -> None:
    done = subprocess.run([str(part) for part in command], cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FieldError(f"{' '.join(map(str, command))}: {done.stderr.strip()[-2000:] or done.stdout.strip()[-2000:]}")
