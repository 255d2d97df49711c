"""Start a child process and stand in for it: what one is sent the other gets, and it ends as it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ..model import SessionwatchError

SI_KERNEL = 0x80  # Linux: not sent by a process, but for example by a terminal whose Ctrl-C was pressed


def _present(*names: str) -> frozenset[signal.Signals]:
    return frozenset(signal.Signals[name] for name in names if name in signal.Signals.__members__)


# A terminal sends these to the child as well, because it sends them to the whole foreground group.
FROM_TERMINAL = _present("SIGINT", "SIGQUIT", "SIGHUP", "SIGWINCH", "SIGCONT")
STOPS = _present("SIGTTIN", "SIGTTOU")
PASSED_ON = FROM_TERMINAL | STOPS | _present("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGABRT", "SIGIO", "SIGPWR")


def supervise(argv: Sequence[str], environment: Mapping[str, str], executable: str | None = None) -> int:
    """Run ``argv`` until it ends: its exit status, or the negative number of the signal that ended it.

    ``executable`` is the file to run where ``argv[0]`` is not one. Standard streams, open files, process
    group and signal mask are inherited as they are. Raises `SessionwatchError` where it can't be started.
    """
    if os.name != "posix":
        return _supervise_plainly(_start(argv, environment, executable))
    early: list[int] = []
    with _handlers(lambda signum, _: early.append(signum)):
        child = _start(argv, environment, executable)
        if hasattr(signal, "sigwaitinfo"):
            return _wait_with_origin(child, early)
        return _wait_with_handlers(child, early)


def end_like(signum: int) -> int:
    """End this process by ``signum``, without a core file of its own; returns only where that fails."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError, ValueError):  # SIGKILL has no handler
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signum])
    os.kill(os.getpid(), signum)
    return 128 + signum


def _start(argv: Sequence[str], environment: Mapping[str, str], executable: str | None) -> subprocess.Popen[bytes]:
    try:
        # Files that were open for this process are meant for the program: sockets of a service manager, pipes.
        return subprocess.Popen(list(argv), executable=executable, env=dict(environment), close_fds=False)
    except OSError as error:
        raise SessionwatchError(f"{executable or argv[0]} can't be started: {error.strerror or error}") from error


@contextmanager
def _handlers(handler: Any) -> Iterator[None]:
    """``handler`` for what is passed on; a signal that is ignored stays so, for the child inherits that."""
    before = {signum: signal.getsignal(signum) for signum in PASSED_ON}
    mine = [signum for signum, present in before.items() if present not in (signal.SIG_IGN, None)]
    for signum in mine:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum in mine:
            signal.signal(signum, before[signum])


def _wait_with_origin(child: subprocess.Popen[bytes], early: list[int]) -> int:
    """Wait with the signals blocked, so that each one tells who sent it.

    They are blocked only now, after the child was started: a mask is inherited.
    """
    waited = PASSED_ON | {signal.SIGCHLD}
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:  # then the system would not keep the exit status
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    try:
        for signum in early:
            child.send_signal(signum)
        while child.poll() is None:
            _pass_on(child, signal.sigwaitinfo(waited))
        return child.returncode
    finally:
        while signal.sigtimedwait(waited, 0):
            pass  # they came for the child, and it is gone
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pass_on(child: subprocess.Popen[bytes], info: signal.struct_siginfo) -> None:
    signum, from_system = info.si_signo, info.si_code == SI_KERNEL
    if signum == signal.SIGCHLD:
        return
    if from_system and signum in STOPS:
        os.kill(os.getpid(), signal.SIGSTOP)  # as the child: its shell sees one stopped job
    elif not (from_system and signum in FROM_TERMINAL) or _only_we_were_hung_up(signum):
        child.send_signal(signum)


def _only_we_were_hung_up(signum: int) -> bool:
    """A lost terminal tells the leader of the session, not the whole group."""
    return signum in (signal.SIGHUP, signal.SIGCONT) and os.getsid(0) == os.getpid()


def _wait_with_handlers(child: subprocess.Popen[bytes], early: list[int]) -> int:
    """Without `signal.sigwaitinfo` (macOS): what a terminal in the foreground sends is taken as its own."""

    def handle(signum: int, _: FrameType | None) -> None:
        if not (signum in FROM_TERMINAL and _in_foreground()):
            child.send_signal(signum)

    with _handlers(handle):
        for signum in early:
            child.send_signal(signum)
        return child.wait()


def _in_foreground() -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    return False


def _supervise_plainly(child: subprocess.Popen[bytes]) -> int:
    """Without POSIX signals: Ctrl-C reaches the child by itself."""
    while True:
        with suppress(KeyboardInterrupt):
            return child.wait()
