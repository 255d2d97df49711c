"""SQLAlchemy's own performance examples, taken from its source distribution: bare and watched, by instructions.

Nothing of them is kept here: pip downloads the distribution of the installed version once, into a cache.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import instructions
from .databases import Database, UnavailableError
from .instructions import Counts
from .workloads import Run, Workload

Say = Callable[[str], None]
PACKAGE = "performance"
# How much of a suite is one sample; their own numbers would take hours under callgrind.
NUMBERS = {"bulk_inserts": 1000, "bulk_updates": 1000, "large_resultsets": 2000}
NUMBER = 30  # of any other suite
SET_UP_ONCE = ("short_selects",)  # a process: it only reads, and 11,000 inserts before each run would take minutes


def cache() -> Path:
    """``$SESSIONWATCH_CACHE``, else ``sessionwatch`` in the user's cache directory."""
    if given := os.environ.get("SESSIONWATCH_CACHE"):
        return Path(given).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sessionwatch"


def fetch(wanted: str | None = None, say: Say = lambda line: None) -> Path:
    """The folder that holds the examples of that version of SQLAlchemy, the installed one if none is given."""
    wanted = wanted or version("sqlalchemy")
    folder = cache() / f"examples-{wanted}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="examples-") as fresh:
            _unpack(_download(wanted, Path(fresh), say), Path(fresh) / "made")
            (Path(fresh) / "made").rename(folder)
    return folder


def _download(wanted: str, folder: Path, say: Say) -> Path:
    say(f"downloading the source distribution of SQLAlchemy {wanted}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "sqlalchemy"]
    done = subprocess.run([*command, "--dest", str(folder), f"sqlalchemy=={wanted}"], capture_output=True, text=True)
    found = list(folder.glob("*.tar.gz"))
    if done.returncode or not found:
        reason = (done.stderr.strip() or "no file").splitlines()[-1]
        raise UnavailableError(f"the source distribution of SQLAlchemy {wanted} could not be downloaded: {reason}")
    return found[0]


def _unpack(archive: Path, target: Path) -> None:
    """Put ``examples/performance`` of the archive, and nothing else of it, below ``target``."""
    with tarfile.open(archive) as tar:
        wanted = [item for item in tar if item.isfile() and item.name.split("/")[1:3] == ["examples", PACKAGE]]
        if not wanted:
            raise UnavailableError(f"there is no examples/{PACKAGE} in {archive.name}")
        tar.extractall(target.parent / "all", members=wanted, filter="data")
    target.mkdir()
    (inner,) = (target.parent / "all").glob(f"*/examples/{PACKAGE}")
    shutil.move(inner, target / PACKAGE)


def measure(
    modes: Iterable[str],
    folder: Path,
    *,
    scale: float = 1.0,
    jobs: int = 2,
    valgrind: bool = True,
    say: Say = lambda line: None,
) -> list[Counts]:
    """Count every example of the folder in each mode, ``jobs`` processes at a time."""
    if valgrind:
        instructions.need_valgrind()
    options = ["--samples=1", f"--scale={scale}", f"--examples={folder}"]

    def one(mode: str) -> Counts:
        counted = instructions.count(mode, options, valgrind)
        say(f"counted the examples, {mode}" + (f": cannot run: {counted.cannot}" if counted.cannot else ""))
        return counted

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        return list(pool.map(one, modes))


def found(folder: Path) -> list[Workload]:
    """A workload for each example, named ``suite.example``; imports the suites."""
    sys.path.insert(0, str(folder))
    package: Any = importlib.import_module(PACKAGE)
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name[0] != "_")
    return [workload for name in names for workload in _suite(package.Profiler, name)]


def _suite(profiler: Any, name: str) -> list[Workload]:
    """Import one suite. It registers what it has with a class that holds one suite a process."""
    profiler.tests, profiler._setup, profiler._setup_once = [], None, None
    importlib.import_module(f"{PACKAGE}.{name}")
    set_up = _SetUp(name, profiler._setup, profiler._setup_once)
    number = NUMBERS.get(name, NUMBER)
    return [
        Workload(
            f"{name}.{test.__name__.removeprefix('test_')}", test.__doc__ or "", partial(_run, set_up, test), number
        )
        for test in profiler.tests
    ]


class _SetUp:
    """Fills the database of a suite as the suite does it: once, or before each run."""

    def __init__(self, suite: str, always: Callable[..., None] | None, once: Callable[..., None] | None) -> None:
        self._suite, self._always, self._once = suite, always, once
        self._done = False
        self._folder = tempfile.TemporaryDirectory(prefix="sessionwatch-examples-")

    def __call__(self, number: int) -> None:
        url = f"sqlite:///{self._folder.name}/{self._suite}.db"
        if self._once is not None and not self._done:
            self._once(url, False, number)
        if self._always is not None and not (self._done and self._suite in SET_UP_ONCE):
            self._always(url, False, number)
        self._done = True


def _run(set_up: _SetUp, test: Callable[[int], object], db: Database, number: int) -> Iterator[Run]:
    """One call of an example, on a database of its own; they choose rows at random."""
    _tried(set_up, number)
    random.seed(number)
    yield lambda: _tried(test, number)


def _tried(function: Callable[[int], object], number: int) -> None:
    try:
        function(number)
    except Exception as error:  # of one example; the others are measured
        raise UnavailableError(f"{type(error).__name__}: {error}") from error
