"""A pytest plugin that writes the outcome of every phase of every test, and whether sessionwatch was there.

It is loaded with ``-p host_recorder`` from this folder and reads its orders from the environment:

- ``HOST_OUTCOMES``: the file that it writes, JSON Lines (see `tests/host/outcomes.py` for the reader);
- ``HOST_ONLY``: optional, a file with node ids; all other tests are deselected.
- ``HOST_ORDER``: optional, a number: files, classes and tests are shuffled by it, each among its own kind.

With pytest-xdist the controlling process writes, because every report passes there, that of a worker
which died too. Each worker counts the tests during which a watch was installed.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, TextIO

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Selection(os.environ.get("HOST_ONLY")), "host-selection")
    witness = Witness(config)
    config.pluginmanager.register(witness, "host-witness")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(config, Path(os.environ["HOST_OUTCOMES"])), "host-recorder")


class Selection:
    """Keeps only the tests that were asked for; done last, because SQLAlchemy's plugin makes new items."""

    def __init__(self, file: str | None) -> None:
        self.wanted = set(Path(file).read_text(encoding="utf-8").splitlines()) if file else None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, object, object]:
        result = yield
        if self.wanted is not None:
            items[:] = [item for item in items if item.nodeid in self.wanted]
        if seed := os.environ.get("HOST_ORDER"):
            items[:] = shuffled(items, random.Random(seed))
        return result


def shuffled(items: list[pytest.Item], chance: random.Random) -> list[pytest.Item]:
    """In another order, the same for the same number; what shares a file or a class stays together."""
    files: dict[str, dict[str, list[pytest.Item]]] = {}
    for item in items:
        file, _, rest = item.nodeid.partition("::")
        files.setdefault(file, {}).setdefault(rest.rpartition("::")[0], []).append(item)
    chosen = []
    for classes in mixed(files.values(), chance):
        for tests in mixed(classes.values(), chance):
            chosen += mixed(tests, chance)
    return chosen


def mixed(values: Iterable[Any], chance: random.Random) -> list[Any]:
    kept = list(values)
    chance.shuffle(kept)
    return kept


class Witness:
    """Counts the tests that ran while a watch was installed in this process."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.tests = self.watched = 0
        self.watch: Any = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        self.tests += 1
        module = sys.modules.get("sessionwatch.watch.installation")
        watch = module.current() if module else None
        if watch is not None:
            self.watched += 1
            self.watch = watch
        return (yield)

    def told(self) -> dict[str, Any]:
        status = self.watch.status() if self.watch is not None else {}
        return {"kind": "process", "pid": os.getpid(), "tests": self.tests, "watched": self.watched, "status": status}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            output["host_witness"] = json.dumps(self.told(), default=str)


class Recorder:
    """Writes one JSON line a report, a warning and a worker process, and a last one with the exit status."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self.config = config
        self.out: TextIO = path.open("w", encoding="utf-8", buffering=1)
        self.places = sorted({str(config.rootpath), sys.prefix}, key=len, reverse=True)

    def write(self, **line: object) -> None:
        self.out.write(json.dumps(line, default=str) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        text = report.longreprtext if report.failed else ""
        detail = self.plain(reason(report))
        outcome = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
        outcome = "xpassed" if hasattr(report, "wasxfail") and report.passed else outcome
        self.write(kind="test", id=report.nodeid, phase=report.when, outcome=outcome, detail=detail, text=text)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            text = report.longreprtext
            detail = self.plain(last_line(text))
            self.write(kind="test", id=report.nodeid, phase="collect", outcome="failed", detail=detail, text=text)

    def pytest_warning_recorded(self, warning_message: Any, nodeid: str) -> None:
        lines = str(warning_message.message).splitlines()
        self.write(
            kind="warning",
            id=nodeid,
            category=warning_message.category.__name__,
            message=self.plain(lines[0] if lines else ""),
            text="\n".join(lines),
        )

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        told = (getattr(node, "workeroutput", None) or {}).get("host_witness")
        self.write(**(json.loads(told) if told else {"kind": "process", "pid": None, "error": str(error)}))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        witness = self.config.pluginmanager.get_plugin("host-witness")
        if witness.tests:
            self.write(**witness.told())
        self.write(kind="end", status=int(exitstatus))

    def plain(self, text: str) -> str:
        """The text without what differs between two equal runs: addresses and the folders of the installation."""
        for place in self.places:
            text = text.replace(place, "<host>")
        return re.sub(r"0x[0-9a-fA-F]+", "0x…", text)


def reason(report: pytest.TestReport) -> str:
    """Why a test was skipped or failed, in one line; empty for one that passed."""
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail)
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message.splitlines()[0] if crash and crash.message else last_line(report.longreprtext)


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
