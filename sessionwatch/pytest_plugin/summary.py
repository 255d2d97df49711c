"""What a run of pytest tells at its end: the report by cause, the files that were asked for, the baseline."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ..output.escape import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..output.report import Report
    from ..watch.watch import Watch
    from .recorded import Recorded


class Summary:
    """The end of a run; under xdist, the controller's. ``updating``: the baseline that is to be written."""

    def __init__(
        self,
        config: pytest.Config,
        watch: Watch,
        reports: list[tuple[str, str]],
        recorded: Recorded,
        updating: str | None,
    ) -> None:
        self._config = config
        self._watch = watch
        self._reports = reports
        self._recorded = recorded
        self._updating = updating
        self.unused: dict[str, None] = {}  # allowances of xdist's workers, as they are shown
        self.used: set[str] = set()

    def tell(self, terminal: pytest.TerminalReporter) -> None:
        """Everything, in this order."""
        self._update_baseline(terminal)
        self._write_reports(terminal)
        seen = list(self._watch.store)
        allowances = self.unused | dict.fromkeys(map(str, self._watch.unused_allowances()))
        unused = [item for item in allowances if item not in self.used]  # one worker may need what another one does not
        if not seen and not unused:
            return
        terminal.section("sessionwatch", sep="=")
        for item in unused:
            terminal.line(visible(f"unused: {item}"))
        if seen:
            with self._guarded(terminal, "the report"):
                terminal.line(self._text(self._report(terminal)).rstrip("\n"))

    @contextmanager
    def _guarded(self, terminal: pytest.TerminalReporter, what: str) -> Iterator[None]:
        """An error of ours is a line: pytest goes on to its own summary and exit status."""
        try:
            yield
        except pytest.exit.Exception:
            raise
        except Exception as error:
            terminal.line(visible(f"sessionwatch: {what} can't be made: {type(error).__name__}: {error}"))
            self._watch.tracker.failed("report")

    def _text(self, report: Report) -> str:
        from ..output import formats

        return report.totals() if self._updating else formats.find("text")(report)

    def _report(self, terminal: pytest.TerminalReporter | None = None) -> Report:
        from ..output.about import about
        from ..output.report import Report, width_of

        return Report(
            seen=list(self._watch.store),
            recording=self._recorded.lines() if terminal is None else None,
            about=about("pytest"),
            through=self._watch.config.through,
            file=self._config.getoption("--sessionwatch-output"),
            colour=terminal is not None and terminal.hasmarkup,
            width=width_of(sys.stdout if terminal is not None and terminal.isatty else None),
            verbose=terminal is not None and self._config.option.verbose > 0,
            told=terminal is not None,
            to_patch="pytest --sessionwatch-report patch:fixes.diff",
            to_know="pytest --sessionwatch-update-baseline",
        )

    def _write_reports(self, terminal: pytest.TerminalReporter) -> None:
        from dataclasses import replace

        from ..model import ConfigError
        from ..output import formats
        from ..watch.baseline import absent

        for name, file in self._reports:
            with self._guarded(terminal, file):
                try:
                    report = self._report()
                    if name == "sarif":
                        found = [item.finding for item in report.seen]
                        report = replace(report, absent=absent(self._watch.config, found))
                    formats.write(file, formats.find(name)(report))
                except ConfigError as error:
                    pytest.exit(f"sessionwatch: {error}", returncode=pytest.ExitCode.USAGE_ERROR)
                terminal.line(f"sessionwatch: {file} written")

    def _update_baseline(self, terminal: pytest.TerminalReporter) -> None:
        from ..model import ConfigError
        from ..watch.baseline import merged, read, write

        if not self._updating:
            return
        found = [seen.finding for seen in self._watch.store if seen.finding.allowed is None]
        try:
            known = read(self._updating)  # stays: this may have been a part of the tests
            number = write(self._updating, merged(known.values(), found))
        except ConfigError as error:
            pytest.exit(f"sessionwatch: {error}", returncode=pytest.ExitCode.USAGE_ERROR)
        terminal.line(f"sessionwatch: {self._updating}: {number} known findings (before: {len(known)})")
        if self._watch.config.baseline is None:
            terminal.line(
                "sessionwatch: not in use yet; for that, add to the pytest configuration:"
                f" sessionwatch_baseline = {os.path.relpath(self._updating, self._config.rootpath)}"
            )
