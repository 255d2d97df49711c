"""Start a child process and stand in for it: what one is sent the other gets, and it ends as it ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ..model import SessionwatchError
from .handlers import handlers


def supervise(argv: Sequence[str], environment: Mapping[str, str], executable: str | None = None) -> int:
    """Run ``argv`` until it ends: its exit status, or the negative number of the signal that ended it.

    ``executable`` is the file to run where ``argv[0]`` is not one. Standard streams, open files, process
    group and signal mask are inherited as they are. Raises `SessionwatchError` where it can't be started.
    """
    if sys.platform != "win32" and hasattr(signal, "pthread_sigmask"):
        from . import posix

        early: list[int] = []
        with handlers(lambda signum, _: early.append(signum)):
            return posix.wait(_start(argv, environment, executable), early)
    return _supervise_plainly(_start(argv, environment, executable))


def end_like(signum: int) -> int:
    """End this process by ``signum``, without a core file of its own; returns only where that fails."""
    if sys.platform != "win32" and hasattr(signal, "pthread_sigmask"):
        from . import posix

        posix.end_by(signum)
    return 128 + signum


def _start(argv: Sequence[str], environment: Mapping[str, str], executable: str | None) -> subprocess.Popen[bytes]:
    try:
        # Files that were open for this process are meant for the program: sockets of a service manager, pipes.
        return subprocess.Popen(list(argv), executable=executable, env=dict(environment), close_fds=False)
    except OSError as error:
        raise SessionwatchError(f"{executable or argv[0]} can't be started: {error.strerror or error}") from error


def _supervise_plainly(child: subprocess.Popen[bytes]) -> int:
    """Without POSIX signals: Ctrl-C reaches the child by itself."""
    while True:
        with suppress(KeyboardInterrupt):
            return child.wait()
