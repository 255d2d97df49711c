"""Waiting for a child and passing signals on, as POSIX has them. Not for Windows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import FrameType

from .handlers import FROM_TERMINAL, PASSED_ON, STOPS, handlers

assert sys.platform != "win32"
SI_KERNEL = 0x80  # Linux: not sent by a process, but for example by a terminal whose Ctrl-C was pressed


def wait(child: subprocess.Popen[bytes], early: list[int]) -> int:
    """Wait until ``child`` ends, and pass on what we are sent; ``early``: what came before it was started."""
    if sys.platform != "darwin" and hasattr(signal, "sigwaitinfo"):
        return _wait_with_origin(child, early)
    return _wait_with_handlers(child, early)


def end_by(signum: int) -> None:
    """End this process by ``signum``, without a core file of its own; returns only where that fails."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError, ValueError):  # SIGKILL has no handler
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signum])
    os.kill(os.getpid(), signum)


if sys.platform != "darwin":

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

    with handlers(handle):
        for signum in early:
            child.send_signal(signum)
        return child.wait()


def _in_foreground() -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    return False
