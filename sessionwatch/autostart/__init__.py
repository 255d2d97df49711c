"""Inside a watched process: ``sessionwatch.install()`` as soon as SQLAlchemy's ORM is imported.

``sitecustomize.py`` beside this file runs when a process starts, and loads this module by its path (the
package may not be importable there) when the process imports SQLAlchemy. No error of ours may reach the
program: it becomes a note, which the report repeats.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import sys
import threading
from typing import Any

PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Their import imports the ORM, and hooks go into them, or they are what is called: where a program begins with one,
# it is completed first. A program that calls `sessionwatch.install` itself gets our installation then.
_FIRST = (
    "sqlalchemy.ext.asyncio",
    "sqlalchemy.ext.mutable",
    "sessionwatch.watch.watch",
    "sessionwatch.watch.installation",
)


def start(raw: str) -> None:
    """Arrange the installation. ``raw``: what ``sessionwatch run`` put into ``SESSIONWATCH_RUN``."""
    import wrapt

    arranged = Installation(json.loads(raw))
    for name in ("sqlalchemy.orm", *_FIRST):
        wrapt.register_post_import_hook(arranged, name)


class Installation:
    """Installs once, when SQLAlchemy's ORM has been imported."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._begun = False

    def __call__(self, loaded: object) -> None:
        if self._begun or "sqlalchemy.orm" not in sys.modules or any(_halfway(name, loaded) for name in _FIRST):
            return
        self._begun = True
        try:
            _install(self._settings)
        except Exception as error:
            _note(self._settings["folder"], event="failed", error=f"{type(error).__name__}: {error}")


def _halfway(name: str, loaded: object) -> bool:
    """Whether the module is being imported at the moment; ``loaded`` is the one that has just become complete."""
    module = sys.modules.get(name)
    if module is None or module is loaded or not getattr(module.__spec__, "_initializing", False):
        return False
    return name != "sqlalchemy.ext.asyncio" or _is_there("greenlet")  # without it, this import fails


def _is_there(name: str) -> bool:
    with contextlib.suppress(Exception):  # a finder of the program's
        return importlib.util.find_spec(name) is not None
    return False


def _import_ours(name: str) -> Any:
    """A module of this package; from the folder of the running command where the program has none of its own."""
    try:
        return importlib.import_module(f"sessionwatch.{name}")
    except ModuleNotFoundError as error:
        if error.name != "sessionwatch":
            raise
    sys.path.append(PARENT)
    try:
        return importlib.import_module(f"sessionwatch.{name}")
    finally:
        sys.path.remove(PARENT)


def _install(settings: dict[str, Any]) -> None:
    module, sinks = _import_ours("watch.installation"), _import_ours("output.sinks")
    atexit.register(_at_exit, module, settings["folder"])
    collector = Collector(sinks.OpenFile, settings["folder"], settings["findings"])
    module.install(log=False, gives_way=True, sink=collector, recording=settings.get("recording"))
    _note(settings["folder"], event="watching")


class Collector:
    """Writes each finding when it is first met, and keeps its count in a file that survives every end.

    A process that ends by a signal or by ``os._exit`` has no time left to write final counts. So each
    further occurrence overwrites its row in ``counts-PID`` (fingerprint, line, whether it is allowed, count),
    and `sessionwatch run` makes the last lines from these.
    """

    ROW = "{:>16} {:>10} {:d} {:>14}\n"

    def __init__(self, open_file: Any, folder: str, findings: str) -> None:
        self._open, self._folder = open_file, folder
        self._findings = open_file(findings, os.O_APPEND)
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._rows = self._open(os.path.join(self._folder, f"counts-{self._pid}"), os.O_CREAT)
        self._met: dict[tuple[str, int, bool], _Met] = {}

    def __call__(self, finding: Any, _: bool) -> None:
        if os.getpid() != self._pid:  # forked: what the parent met is the parent's to tell
            self._begin()
        key = _key(finding)
        with self._lock, contextlib.suppress(OSError):  # the folder is gone where this process outlives the report
            met = self._met.setdefault(key, _Met(len(self._met)))
            first = met.last is None
            met.add(finding)
            finding.when_grown = self._grown
            if first:
                record = {**finding.as_json(), "pid": self._pid, "count": met.count}
                os.write(self._findings.number(), json.dumps(record).encode("ascii") + b"\n")
            else:
                self._write(key, met)

    def _grown(self, finding: Any) -> None:
        """A finding counts on by itself, as that of ``n-plus-one`` does with each query."""
        key = _key(finding)
        met = self._met.get(key) if os.getpid() == self._pid else None
        if met is not None:
            with self._lock, contextlib.suppress(OSError):
                met.grow(finding)
                self._write(key, met)

    def _write(self, key: tuple[str, int, bool], met: _Met) -> None:
        line = self.ROW.format(*key, met.count).encode("ascii")
        os.lseek(self._rows.number(), met.row * len(line), os.SEEK_SET)
        os.write(self._rows.number(), line)


def _key(finding: Any) -> tuple[str, int, bool]:
    fingerprint, line, _, allowed = finding.key
    return fingerprint, line, allowed


class _Met:
    """How often a finding was met. Each installation has an object of its own for it, which has the count."""

    def __init__(self, row: int) -> None:
        self.row = row
        self.count = 0
        self.last: Any = None
        self._counted = 0  # of the last object

    def add(self, finding: Any) -> None:
        count = finding.count
        self.count += count - (self._counted if finding is self.last else 0)
        self.last, self._counted = finding, count

    def grow(self, finding: Any) -> None:
        if finding is self.last:
            self.add(finding)
        else:  # of an installation, or a test, before
            self.count += 1


def _at_exit(module: Any, folder: str) -> None:
    """After the watch's own handler, which was registered later."""
    try:
        watch = module.current()
        unused = watch.unused_allowances() if watch is not None else ()
        if unused:
            told = [{"rules": item.rules, "reason": item.reason, "text": str(item)} for item in unused]
            _note(folder, event="ended", unused=told)
    except Exception as error:
        _note(folder, event="failed", error=f"{type(error).__name__}: {error}")


def _note(folder: str, **fields: object) -> None:
    """Append one line for the report; whole, whoever else writes."""
    line = json.dumps({"pid": os.getpid(), **fields}).encode("ascii") + b"\n"
    with contextlib.suppress(OSError), open(os.path.join(folder, "notes.jsonl"), "ab", 0) as file:
        file.write(line)
