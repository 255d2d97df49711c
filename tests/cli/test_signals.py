"""Signals reach the program as though sessionwatch were not there, and its end is passed back."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.cli.programs import DEADLINE, LOST_LINE, Place

WAITS = """
import os, signal, sys, time
import shop

def say(*words):
    print(*words, flush=True)

shop.lose(shop.make_engine())
"""
PAUSE = "say('ready', os.getpid())\nwhile True: signal.pause()\n"


def heed() -> None:
    """In a child: a test run in the background, or under ``nohup``, would hand down that these are ignored."""
    for signum in signal.SIGINT, signal.SIGQUIT, signal.SIGHUP:
        signal.signal(signum, signal.SIG_DFL)


@contextmanager
def started(place: Place, *argv: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has said ``ready``; its process id is in ``.program``."""
    command = [sys.executable, "-m", "sessionwatch", "run", "--format", "json", "--output", "findings.jsonl", *argv]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": heed, **options}
    with place.start(*command, **options) as process:
        try:
            assert process.stdout is not None
            word, pid = process.stdout.readline().split()
            assert word == b"ready"
            process.program = int(pid)  # type: ignore[attr-defined]
            yield process
        finally:
            process.kill()
            with suppress(ProcessLookupError, AttributeError):
                os.kill(process.program, signal.SIGKILL)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGABRT"])
def test_unhandled_signal_ends_both_by_itself(place: Place, name: str) -> None:
    """A signal that the program does not handle ends it, and sessionwatch ends by the same one."""
    place.write("job.py", WAITS + PAUSE)
    with started(place, "job.py") as process:
        process.send_signal(getattr(signal, name))
        process.communicate(timeout=DEADLINE)
        assert process.returncode == -getattr(signal, name)
    assert [(f["rule"], f["line"]) for f in place.findings()] == [("lost-writes", LOST_LINE)]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGWINCH", "SIGCONT", "SIGTTIN"])
def test_handled_signal_arrives_once(place: Place, name: str) -> None:
    """A handler of the program's is called once, and the program goes on as it wants to."""
    handler = f"count = []\nsignal.signal(signal.{name}, lambda *_: count.append(1))\n"
    wait = "say('ready', os.getpid())\nwhile not count: time.sleep(0.01)\nsay('got', len(count))\nsys.exit(7)"
    place.write("job.py", WAITS + handler + wait)
    with started(place, "job.py") as process:
        process.send_signal(getattr(signal, name))
        out, _ = process.communicate(timeout=DEADLINE)
        assert (process.returncode, out) == (7, b"got 1\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGSEGV"])
def test_signal_to_the_program_itself(place: Place, name: str) -> None:
    """Where the program alone is ended by a signal, sessionwatch ends by it after the report."""
    place.write("job.py", WAITS + PAUSE)
    with started(place, "job.py") as process:
        os.kill(process.program, getattr(signal, name))  # type: ignore[attr-defined]
        process.communicate(timeout=DEADLINE)
        assert process.returncode == -getattr(signal, name)
    assert len(place.findings()) == 1


def test_text_report_comes_before_the_end_by_a_signal(place: Place) -> None:
    """A program ended by SIGTERM is reported about on stderr."""
    place.write("job.py", WAITS + "os.kill(os.getpid(), signal.SIGTERM)")
    outcome = place.sessionwatch("run", "job.py")
    assert outcome.status == -signal.SIGTERM
    assert outcome.err.startswith("sessionwatch: 1 fault\n\nA  FAULT  lost-writes  ")


def test_ignored_signal_stays_ignored(place: Place) -> None:
    """Under ``nohup`` neither the program nor sessionwatch is ended by SIGHUP."""
    wait = "say('ready', os.getpid())\nsignal.sigtimedwait([signal.SIGUSR1], 60); say('alive')"
    place.write("job.py", WAITS + "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n" + wait)
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with started(place, "job.py", **ignore) as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGUSR1)
        out, _ = process.communicate(timeout=DEADLINE)
        assert (process.returncode, out) == (0, b"alive\n")


@pytest.fixture
def terminal() -> Iterator[tuple[int, dict[str, Any]]]:
    """A terminal of its own: our end, and what makes a child's process the leader on the other end."""
    ours, theirs = pty.openpty()

    def lead() -> None:
        import fcntl
        import termios

        heed()
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    yield ours, {"stdin": theirs, "stdout": theirs, "stderr": theirs, "preexec_fn": lead}
    os.close(ours)
    os.close(theirs)


def read_until(ours: int, word: bytes) -> bytes:
    text = b""
    while word not in text:
        assert select.select([ours], [], [], DEADLINE)[0], f"{word!r} did not come after {text!r}"
        text += os.read(ours, 4096)
    return text


def test_ctrl_c_arrives_once(place: Place, terminal: tuple[int, dict[str, Any]]) -> None:
    """Ctrl-C at a terminal reaches the program once, because the terminal sends it to both."""
    ours, streams = terminal
    handler = "count = []\nsignal.signal(signal.SIGINT, lambda *_: count.append(1))\nsay('ready')\n"
    # SIGALRM comes after whatever sessionwatch would have passed on, for it is passed on in order.
    wait = "signal.signal(signal.SIGALRM, lambda *_: (os.write(1, b'got %d' % len(count)), os._exit(5)))\n"
    place.write("job.py", WAITS + wait + handler + "while not count: time.sleep(0.01)\nsay('first')\n" + PAUSE)
    with place.start(sys.executable, "-m", "sessionwatch", "run", "job.py", **streams) as process:
        read_until(ours, b"ready")
        os.write(ours, b"\x03")
        read_until(ours, b"first")
        process.send_signal(signal.SIGALRM)
        text = read_until(ours, b"next:")
    assert b"got 1" in text
    assert process.returncode == 5


def test_ctrl_c_unhandled(place: Place, terminal: tuple[int, dict[str, Any]]) -> None:
    """An unhandled Ctrl-C shows the program's own traceback, then the report, and ends by SIGINT."""
    ours, streams = terminal
    place.write("job.py", WAITS + PAUSE)
    with place.start(sys.executable, "-m", "sessionwatch", "run", "job.py", **streams) as process:
        read_until(ours, b"ready")
        os.write(ours, b"\x03")
        text = read_until(ours, b"next:").decode()
    assert process.returncode == -signal.SIGINT
    assert text.count("Traceback (most recent call last)") == 1
    assert text.index("KeyboardInterrupt") < text.index("lost-writes")
    assert "sessionwatch/" not in text


def test_report_is_coloured_on_a_terminal_only(place: Place, terminal: tuple[int, dict[str, Any]]) -> None:
    """Escape sequences are for terminals, and not for those whose user set NO_COLOR."""
    ours, streams = terminal
    place.write("job.py", WAITS)
    command = [sys.executable, "-m", "sessionwatch", "run", "job.py"]
    with place.start(*command, **streams):
        assert b"\x1b[" in read_until(ours, b"next:")
    with place.start(*command, **{**streams, "preexec_fn": None}, env={"NO_COLOR": "1"}):
        assert b"\x1b[" not in read_until(ours, b"next:")
    assert b"\x1b[" not in place.sessionwatch("run", "job.py").stderr
    assert b"\x1b[" in place.sessionwatch("run", "job.py", env={"FORCE_COLOR": "1"}).stderr
