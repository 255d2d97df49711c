"""Files that stay open in a program that we do not own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from .safe import open_file, write_whole


class OpenFile:
    """A file that is kept open; opened again where the program has closed it.

    Daemons close every file that is open, and the number may be a socket of theirs by now.
    """

    def __init__(self, path: str, flags: int, mode: int = 0o600) -> None:
        self._path, self._flags, self._mode = path, flags, mode
        self._number, self._what = -1, os.stat_result(range(10))

    def number(self) -> int:
        """The file descriptor. Raises `OSError`."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._number), self._what):
                return self._number
        self._number = open_file(self._path, self._flags, self._mode)
        self._what = os.fstat(self._number)
        return self._number

    def close(self) -> None:
        """Close the file, unless the program has done so."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._number), self._what):
                os.close(self._number)
        self._number = -1


def appending(path: str) -> Callable[[bytes], object]:
    """Appends whole lines to a file that other processes may write, too. Raises `OSError` when it is called."""
    file = OpenFile(os.path.abspath(path), os.O_APPEND | os.O_CREAT)
    return lambda line: write_whole(file.number(), line)
