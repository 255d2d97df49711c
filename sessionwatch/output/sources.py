"""Lines of source for reports, taken when the report is made. Not from a file that has changed since the run."""

from __future__ import annotations

import os
import tokenize

_LARGEST = 2_000_000  # bytes
_SUFFIXES = (".py", ".pyi", ".pyw")  # a file of findings from elsewhere must not bring anything else into a report
_WIDEST = 300


class Sources:
    """Reads lines. ``since``: seconds since the epoch when the run began; files that are newer have changed."""

    def __init__(self, since: float | None = None, root: str | None = None) -> None:
        self._since = since
        self._root = root or os.getcwd()
        self._files: dict[str, list[str] | None] = {}
        self.changed: list[str] = []  # paths, as they were asked for

    def line(self, path: str, number: int) -> str | None:
        """One line without its end; None where it is not known. Lines count from 1."""
        if path not in self._files:
            self._files[path] = self._read(path)
        lines = self._files[path]
        if lines is None or not 1 <= number <= len(lines):
            return None
        return lines[number - 1][:_WIDEST]

    def _read(self, path: str) -> list[str] | None:
        if not path.endswith(_SUFFIXES):
            return None
        try:
            place = os.path.join(self._root, path)
            facts = os.stat(place)
            if self._since is not None and facts.st_mtime > self._since:
                self.changed.append(path)
                return None
            if facts.st_size > _LARGEST:
                return None
            with tokenize.open(place) as stream:
                return stream.read().splitlines()
        except (OSError, ValueError, SyntaxError):
            return None
