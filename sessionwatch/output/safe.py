"""Files that are written: none of them makes the program wait, and none is what somebody else has put in its place."""

from __future__ import annotations

import errno
import os
import stat
from typing import IO

_EXTRA = 0
for _name in ("O_CLOEXEC", "O_BINARY", "O_NOCTTY"):  # not every system has each of them
    _EXTRA |= getattr(os, _name, 0)
_NONBLOCK, _NOFOLLOW = getattr(os, "O_NONBLOCK", 0), getattr(os, "O_NOFOLLOW", 0)
_LARGEST = 100_000_000  # bytes that are read at once
_LINKS = 40  # that lead to one file, at most: as the system has it


def open_file(path: str, flags: int, mode: int = 0o666) -> int:
    """Open a file to write to. A pipe that nobody reads is an error, as is a symbolic link that was planted.

    A pipe stays non-blocking: what its reader does not take in time is an error of the write. Raises `OSError`.
    """
    planted = _planted(os.path.abspath(path))
    if planted is not None:
        why = "is a symbolic link of another user's in a folder that others can write to"
        raise OSError(errno.ELOOP, f"{planted} {why}")
    direct = 0 if os.path.islink(path) else _NOFOLLOW  # it may be made one at this moment
    try:
        return os.open(path, os.O_WRONLY | _EXTRA | _NONBLOCK | direct | flags, mode)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads from this pipe") from error
        raise


def text_file(path: str) -> IO[str]:
    """A text file, emptied, for somebody who can wait for its reader. Raises `OSError`."""
    number = open_file(path, os.O_CREAT | os.O_TRUNC)
    if hasattr(os, "set_blocking") and not stat.S_ISREG(os.fstat(number).st_mode):
        os.set_blocking(number, True)
    return open(number, "w", encoding="utf-8", errors="backslashreplace")


def write_whole(number: int, data: bytes) -> None:
    """Write all of it. Raises `OSError` where the disk is full, or a pipe's reader is not fast enough."""
    written = os.write(number, data)
    while written < len(data):
        written += os.write(number, data[written:])


def _planted(path: str) -> str | None:
    """The link on the way to ``path`` that neither we nor root have made, in a folder that others can write to."""
    user = getattr(os, "geteuid", None)
    if user is None:  # Windows: who may make a link is an administrator
        return None
    trusted = (0, user())
    waiting, here = [part for part in path.split(os.sep) if part], os.sep
    for _ in range(_LINKS * len(waiting) if waiting else 0):
        if not waiting:
            return None
        folder, here = here, os.path.join(here, waiting.pop(0))
        try:
            what = os.lstat(here)
            if not stat.S_ISLNK(what.st_mode):
                continue
            if os.stat(folder).st_mode & (stat.S_IWOTH | stat.S_IWGRP) and what.st_uid not in trusted:
                return here
            target = os.path.normpath(os.path.join(folder, os.readlink(here)))
        except OSError:  # it is not there yet, or is no file that has a path
            return None
        waiting, here = [part for part in target.split(os.sep) if part] + waiting, os.sep
    return None


def read_regular(path: str) -> str:
    """The text of a file that has an end: no device, no pipe. Raises `OSError` and ValueError."""
    number = os.open(path, os.O_RDONLY | _EXTRA | _NONBLOCK)
    with open(number, encoding="utf-8") as file:
        what = os.fstat(number)
        if not stat.S_ISREG(what.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if what.st_size > _LARGEST:
            raise OSError(errno.EFBIG, f"it is larger than {_LARGEST // 1_000_000} MB")
        return file.read(_LARGEST)


def replace_file(path: str, text: str) -> None:
    """Write a file as a whole, or leave it as it is. Raises `OSError`."""
    temporary = f"{path}.{os.getpid()}.tmp"
    number = open_file(temporary, os.O_CREAT | os.O_TRUNC)
    try:
        try:
            write_whole(number, text.encode("utf-8", "backslashreplace"))
        finally:
            os.close(number)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
