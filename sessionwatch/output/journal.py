"""What `sessionwatch run` reads of a watched process: its findings, and their counts however it ends.

A process that ends by a signal or by ``os._exit`` has no time left to write final counts. So each further occurrence
overwrites its row in ``counts-PID`` (fingerprint, line, whether it is allowed, count), and the report is made from
these.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .files import OpenFile
from .safe import open_file, write_whole

if TYPE_CHECKING:
    from ..model import Finding
    from .records import Record
    from .store import Seen, Store

_ROW = "{:>16} {:>10} {:d} {:>14}\n"
_FAILURE, _FAILED = "failure", "{:>8}\n"
Place = tuple[int, str, int, bool]  # process, fingerprint, line, whether it is allowed


class Journal:
    """A sink: writes each finding when it is first met, and keeps its row up to date."""

    def __init__(self, store: Store, folder: str, findings: str) -> None:
        self._store, self._folder = store, folder
        self._findings = OpenFile(findings, os.O_APPEND)
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._counts = OpenFile(os.path.join(self._folder, f"counts-{self._pid}"), os.O_CREAT)
        self._numbers = itertools.count()
        self._rows: dict[Seen, int] = {}

    def __call__(self, finding: Finding, first: bool) -> None:
        if os.getpid() != self._pid:  # forked: what the parent met is the parent's to tell
            self._begin()
        seen = self._store.seen(finding)
        if seen is None:
            return
        finding.when_grown = self._grown
        row = self._rows.get(seen)
        with contextlib.suppress(OSError):  # the folder is gone where this process outlives the report
            if row is None:
                row = next(self._numbers)
                if self._rows.setdefault(seen, row) == row:
                    self._tell({**seen.record(), "pid": self._pid})
                    return
            self._write(seen)

    def _tell(self, record: Record) -> None:
        try:
            write_whole(self._findings.number(), json.dumps(record).encode("ascii") + b"\n")
        except OSError as error:
            note_failure(self._folder, error)

    def _grown(self, finding: Finding) -> None:
        """A finding counts on after it was told, as that of many loads does with each query."""
        seen = self._store.seen(finding) if os.getpid() == self._pid else None
        if seen in self._rows:
            with contextlib.suppress(OSError):
                self._write(seen)

    def _write(self, seen: Seen) -> None:
        fingerprint, line, _, allowed = seen.finding.key
        written = 0
        while written != seen.count:  # another thread may have counted on, and written first
            written = seen.count
            row = _ROW.format(fingerprint, line, allowed, written).encode("ascii")
            _write_at(self._counts.number(), row, self._rows[seen] * len(row))


def _write_at(file: int, row: bytes, offset: int) -> None:
    if hasattr(os, "pwrite"):
        os.pwrite(file, row, offset)
    else:  # pragma: no cover (Windows)
        os.lseek(file, offset, os.SEEK_SET)
        os.write(file, row)


def reserve(folder: str) -> None:
    """Before the program starts: take the room to say later that there was none. Raises `OSError`."""
    with open(os.path.join(folder, _FAILURE), "wb", 0) as file:
        write_whole(file.fileno(), _FAILED.format(0).encode("ascii"))


def note_failure(folder: str, error: OSError) -> None:
    """A finding could not be written, perhaps because the disk is full: say so where there is room already."""
    with contextlib.suppress(OSError):
        file = open_file(os.path.join(folder, _FAILURE), 0)
        try:
            _write_at(file, _FAILED.format(error.errno or -1).encode("ascii"), 0)
        finally:
            os.close(file)


def failure(folder: str) -> str | None:
    """Why findings of a watched process could not be written; None where they were."""
    with open(os.path.join(folder, _FAILURE), encoding="ascii") as file:
        number = int(file.read() or -1)
    return None if number == 0 else os.strerror(number) if number > 0 else "unknown error"


def place(record: Record) -> Place:
    """What tells a process's finding from its others."""
    covered = record.get("allowed") is not None or record.get("known", False)
    return record["pid"], record["fingerprint"], record.get("line") or 0, covered


def counts(folder: str) -> Iterator[tuple[Place, int]]:
    """The final counts of all processes that have written to a folder."""
    for name in sorted(os.listdir(folder)):
        prefix, _, pid = name.partition("counts-")
        if prefix or not pid:
            continue
        with open(os.path.join(folder, name), encoding="ascii") as rows:
            for row in rows:
                # zeros: another thread never got to its row; less than all of it: the disk was full
                parts = row.strip("\0").split()
                if len(parts) == 4 and row.endswith("\n"):
                    fingerprint, line, allowed, count = parts
                    yield (int(pid), fingerprint, int(line), allowed == "1"), int(count)
