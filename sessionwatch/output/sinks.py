"""Where findings go: the log, a JSON Lines file, a callback. Sinks know no rules."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping

from ..model import ConfigError, Finding, exportable
from .files import OpenFile
from .files import appending as appending
from .messages import render
from .safe import write_whole
from .store import Seen, Store

Sink = Callable[[Finding, bool], None]  # the finding, and whether it is the first of its kind

logger = logging.getLogger("sessionwatch")


class Story:
    """The text of a finding, made only if a record of it is formatted; ``finding`` is the finding itself."""

    __slots__ = ("finding",)

    def __init__(self, finding: Finding) -> None:
        self.finding = finding

    def __str__(self) -> str:
        return render(self.finding)


def level_of(finding: Finding) -> int:
    """Of `logging`, by what it means for the program: ERROR for a fault, WARNING for advice."""
    return logging.ERROR if finding.severity == "fault" else logging.WARNING


def log(finding: Finding, first: bool) -> None:
    """One record of the logger ``sessionwatch`` for the first of each kind, ERROR for a fault, WARNING for advice.

    It stands at the place that the finding points to, and ``record.args[0].finding`` is the finding. Its other
    attributes are strings and numbers, which OpenTelemetry's handlers export as they are.
    """
    if first and not finding.covered:
        write(finding)


def write(finding: Finding, apart: bool = False) -> None:
    """Such a record. ``apart``: OpenTelemetry has it already, and its handlers do not get it once more."""
    level = level_of(finding)
    if not logger.isEnabledFor(level):
        return
    site = finding.site
    path, line, function = (site.path, site.line, site.full_function) if site else ("(unknown file)", 0, None)
    about = {name: value for name, value in finding.attributes().items() if not name.startswith("code.")}
    arguments = (Story(finding),)
    record = logger.makeRecord(logger.name, level, exportable(path), line, "%s", arguments, None, function, about)
    hand_over(record, apart)


def warn(text: str, about: Mapping[str, str | int], apart: bool = False) -> None:
    """A record with a text of its own, level ERROR."""
    if logger.isEnabledFor(logging.ERROR):
        hand_over(logger.makeRecord(logger.name, logging.ERROR, "", 0, "%s", (text,), None, None, dict(about)), apart)


def hand_over(record: logging.LogRecord, apart: bool) -> None:
    """Give a record to its handlers; ``apart``: to all but OpenTelemetry's, as though those were not there."""
    if not apart:
        logger.handle(record)
        return
    if logger.disabled or not logger.filter(record):
        return
    handlers = [one for one in _handlers(logger) if not _is_of_opentelemetry(one)]
    if not handlers and logging.lastResort is not None:
        handlers = [logging.lastResort]
    for handler in handlers:
        if record.levelno >= handler.level:
            handler.handle(record)


def _handlers(source: logging.Logger | None) -> Iterator[logging.Handler]:
    while source is not None:
        yield from list(source.handlers)
        source = source.parent if source.propagate else None


def _is_of_opentelemetry(handler: logging.Handler) -> bool:
    return any(cls.__module__.partition(".")[0] == "opentelemetry" for cls in type(handler).__mro__)


class JsonLines:
    """Appends findings to a file, one JSON object a line, each line written at once.

    A finding is written when it is first met and, if its count or its story grew, once more by `close`. Several
    processes may append to one file. Raises `sessionwatch.ConfigError` if it can't be opened. ``failure`` says why a
    line could not be written, which is logged once; the file is tried again with the next one.
    """

    def __init__(self, path: str, store: Store | None = None) -> None:
        self.path = os.path.abspath(path)
        self.failure: str | None = None
        self._store = Store() if store is None else store
        self._file: OpenFile | None = OpenFile(self.path, os.O_APPEND | os.O_CREAT, 0o666)
        try:
            self._file.number()
        except OSError as error:
            raise ConfigError(f"output {path} can't be written: {error.strerror}") from error
        self._written: dict[Seen, tuple[int, int]] = {}  # its count and the length of its story, as they were written

    def __call__(self, finding: Finding, first: bool) -> None:
        seen = self._store.seen(finding)
        if seen is not None and seen not in self._written:
            self._write(seen)

    def forget(self) -> None:
        """In a forked child: what the parent saw is the parent's to write."""
        self._written.clear()

    def flush(self) -> None:
        """Write the final counts of findings that were seen more than once."""
        for seen, written in list(self._written.items()):
            if _extent(seen) != written:
                self._write(seen)

    def close(self) -> None:
        """Write the final counts and close the file."""
        try:
            self.flush()
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _write(self, seen: Seen) -> None:
        if self._file is None:
            return
        extent = _extent(seen)
        try:
            write_whole(self._file.number(), json.dumps(seen.record()).encode("ascii") + b"\n")
            self._written[seen] = extent
        except OSError as error:
            self._written[seen] = _NOTHING  # so that `close` tries again
            self._fail(error.strerror or str(error))

    def _fail(self, why: str) -> None:
        first, self.failure = self.failure is None, why
        if first:
            logger.error("sessionwatch: output %s can't be written, and lacks findings: %s", self.path, why)


_NOTHING = (0, 0)


def _extent(seen: Seen) -> tuple[int, int]:
    return seen.count, len(seen.finding.evidence)
