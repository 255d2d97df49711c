"""What no test's own report can tell: findings that came too late for it, and one that is told while a test runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

from .told import Marks, late_report, marks_of, story

if TYPE_CHECKING:
    from ..model import Finding
    from .blame import Late

LateReport = tuple[str, tuple[str, int | None, str], str, Marks]  # node id, location, story: what xdist can send


def reports(late: Iterable[Late]) -> Iterator[LateReport]:
    """One report for each test, or for each place where no test opened the session."""
    stories: dict[tuple[str, tuple[str, int | None, str]], list[Finding]] = {}
    for owner, finding in late:
        path, line = finding.path or "unknown place", finding.line or 1
        nodeid, location = owner.nodeid or path, owner.location if owner.nodeid else (path, line - 1, "the run")
        stories.setdefault((nodeid, location), []).append(finding)
    for (nodeid, location), found in stories.items():
        where = "after its test had ended" if "::" in nodeid else "outside of the tests"
        yield nodeid, location, story(found, where), marks_of(found)


def log_reports(config: pytest.Config, late: Iterable[LateReport]) -> None:
    """Add an error to the tests' reports, so that the run fails and names the test."""
    for nodeid, location, text, marks in late:
        path, line, domain = location  # a list, after its way through xdist
        config.hook.pytest_runtest_logreport(report=late_report(nodeid, (path, line, domain), text, marks))


class Terminal:
    """The terminal as it is without capture. Written to from the watchdog's thread, so no capture is switched."""

    def __init__(self, config: pytest.Config) -> None:
        stream = 2 if hasattr(config, "workerinput") else 1  # a worker's stdout belongs to xdist
        self._number: int | None = None
        with contextlib.suppress(OSError):
            self._number = os.dup(stream)
            config.add_cleanup(self.close)

    def overdue(self, finding: Finding) -> None:
        """Tell of a transaction that keeps others waiting, perhaps this suite, while it does."""
        if self._number is not None:
            text = f"\n{story([finding], 'while a test runs')}\n"
            with contextlib.suppress(OSError):
                os.write(self._number, text.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Let the terminal go."""
        number, self._number = self._number, None
        if number is not None:
            os.close(number)
