"""Ends: the report is complete or says that it is not, whatever happens while it is made."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sessionwatch.command.handlers import kept_waiting
from tests.cli.programs import DEADLINE, Place
from tests.cli.test_signals import heed

LOSE = "import shop\nshop.lose(shop.make_engine())\n"
KEEP = "import shop\nshop.keep(shop.make_engine())\n"
INCOMPLETE = "sessionwatch: incomplete, because not everything could be watched"
MANY = 400


@contextmanager
def reporting(place: Place) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A run in the middle of its report, which goes into a pipe: its process, and the pipe's other end."""
    body = "    session = Session(engine)\n    session.add(Order())\n    session.close()\n"
    place.write("many.py", "from shop import *\n" + "".join(f"def lose_{n}(engine):\n{body}" for n in range(MANY)))
    loop = f"for n in range({MANY}): getattr(many, f'lose_{{n}}')(engine)"
    place.write("job.py", f"import many\nengine = many.make_engine()\n{loop}\n")
    os.mkfifo(place.path / "pipe")
    (place.path / "tmp").mkdir()
    reader = os.open(place.path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    command = [sys.executable, "-m", "sessionwatch", "run", "--output", "pipe", "job.py"]
    with place.start(*command, env={"TMPDIR": str(place.path / "tmp")}, preexec_fn=heed) as process:
        try:
            os.set_blocking(reader, True)
            assert select.select([reader], [], [], DEADLINE)[0]
            yield process, reader
        finally:
            process.kill()
            os.close(reader)


def read_all(number: int) -> str:
    parts = []
    while part := os.read(number, 65536):
        parts.append(part)
    return b"".join(parts).decode()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_report_is_written_to_its_end(place: Place, name: str) -> None:
    """Two signals while the report is written cost nothing of it, leave no folder, and end the process afterwards."""
    with reporting(place) as (process, reader):
        begun = os.read(reader, 1).decode()
        for _ in range(2):
            process.send_signal(getattr(signal, name))
        report = begun + read_all(reader)
        assert process.wait(DEADLINE) == -getattr(signal, name)
    assert report.count("  FAULT  lost-writes  ") == MANY
    assert report.splitlines()[-1].startswith("next:")
    assert os.listdir(place.path / "tmp") == []


def test_a_third_signal_ends_the_report(place: Place) -> None:
    """Who insists is not kept waiting, and even then no folder is left behind."""
    with reporting(place) as (process, reader):
        os.read(reader, 1)
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
            os.read(reader, 1)  # one signal after the other
        read_all(reader)
        assert process.wait(DEADLINE) in (128 + signal.SIGTERM, -signal.SIGTERM)
    assert os.listdir(place.path / "tmp") == []


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as in a program that runs in the foreground; a shell has its background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_signals_are_kept_waiting() -> None:
    """The first two are noted, a third one is obeyed, and the handlers are as before."""
    before = signal.getsignal(signal.SIGINT)
    with kept_waiting() as waiting:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert waiting == [signal.SIGINT, signal.SIGTERM]
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), signal.SIGTERM)
        assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(("source", "options", "status"), [(KEEP, [], 0), (KEEP, ["--fail"], 2), (LOSE, ["--fail"], 1)])
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_full_disk_below_the_report(place: Place, source: str, options: list[str], status: int, form: str) -> None:
    """A report that can't be written says so, has no traceback, and costs the program nothing."""
    place.write("job.py", source)
    outcome = place.sessionwatch("run", *options, "--format", form, "--output", "/dev/full", "job.py")
    if form == "json" and source is KEEP:
        assert outcome.status == 0  # there is nothing to write
        return
    assert outcome.status == status
    assert "sessionwatch: can't write /dev/full: No space left on device" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("options", [[], ["--fail"], ["--fail", "--format", "json"], ["--output", "report"]])
def test_a_full_disk_below_the_findings(place: Place, options: list[str]) -> None:
    """Where a watched process could not write what it found, nobody says that there is nothing."""
    full = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))\n"  # as a disk that is full
    place.write("job.py", full + LOSE + "print('done')\n")
    outcome = place.sessionwatch("run", *options, "job.py")
    assert outcome.out == "done\n"
    assert outcome.status == (2 if "--fail" in options else 0)
    assert "sessionwatch: findings could not be written: File too large" in outcome.err
    said = outcome.err + ((place.path / "report").read_text() if "report" in options else "")
    assert "no findings" not in said
    assert "json" in options or INCOMPLETE in said


def test_no_folder_for_temporary_files(place: Place) -> None:
    """A mistake of one line, before the program starts."""
    place.write("job.py", "print('started')")
    code = (
        "import errno, tempfile\n"
        "def mkdtemp(**_): raise FileNotFoundError(errno.ENOENT, 'No usable temporary directory found')\n"
        "tempfile.mkdtemp = mkdtemp\n"
        "from sessionwatch.command.cli import main\n"
        "raise SystemExit(main(['run', 'job.py']))"
    )
    outcome = place.python("-c", code)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == "sessionwatch: error: no folder for temporary files: No usable temporary directory found\n"


def test_a_pipe_that_nobody_reads(place: Place) -> None:
    """As the output of a run, or of the program's own installation, it is an error and no standstill."""
    os.mkfifo(place.path / "pipe")
    place.write("job.py", LOSE)
    outcome = place.sessionwatch("run", "--output", "pipe", "job.py")
    assert (outcome.status, outcome.err) == (2, "sessionwatch: error: can't write pipe: nobody reads from this pipe\n")
    place.write("own.py", "import sessionwatch\nsessionwatch.install(output='pipe')\n")
    outcome = place.python("own.py")
    assert "ConfigError: output pipe can't be written: nobody reads from this pipe" in outcome.err.splitlines()[-1]


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
def test_a_file_without_an_end(place: Place) -> None:
    """Findings and baselines are not read for ever."""
    outcome = place.sessionwatch("report", "/dev/zero")
    assert outcome.err == "sessionwatch: error: /dev/zero:1 is not a line of JSON\n"
    place.write("job.py", LOSE)
    outcome = place.sessionwatch("run", "job.py", env={"SESSIONWATCH_BASELINE": "/dev/zero"})
    assert "baseline /dev/zero can't be read: it is not a regular file" in outcome.err


# -- systems that are without -------------------------------------------------------------------------

WITHOUT = """
import os, signal, sys
for module, names in (
    (os, "O_CLOEXEC O_NONBLOCK O_NOFOLLOW O_NOCTTY register_at_fork fork forkpty geteuid getuid getsid getpgrp "
         "tcgetpgrp set_blocking pwrite killpg mkfifo"),
    (signal, "SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGCONT SIGSTOP SIGTTIN SIGTTOU SIGWINCH SIGPIPE "
             "pthread_sigmask sigwaitinfo sigtimedwait sigwait alarm pause setitimer"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""


@pytest.mark.parametrize(("source", "status"), [(LOSE, 1), (KEEP, 0)])
def test_a_system_without_posix(place: Place, source: str, status: int) -> None:
    """Where the names that Windows lacks are missing, a run watches all the same."""
    place.write("sitecustomize.py", WITHOUT)
    place.write("job.py", source + "import os\nassert not hasattr(os, 'O_CLOEXEC')\n")
    env = {"PYTHONPATH": f"{place.path}{os.pathsep}{place.env['PYTHONPATH']}"}
    outcome = place.sessionwatch("run", "--fail", "--output", "report", "job.py", env=env)
    assert outcome.status == status, outcome.err
    assert ("A  FAULT  lost-writes  " if status else "no findings") in (place.path / "report").read_text()
    place.write("own.py", f"import sessionwatch\nsessionwatch.install(output='own.jsonl', log=False)\n{source}")
    outcome = place.python("own.py", env=env)
    assert (outcome.status, outcome.err) == (0, "")
    assert len(place.findings("own.jsonl")) == status


def test_an_error_that_keeps_us_out_is_told(place: Place) -> None:
    """A process that could not be watched is named whatever the format, and nobody says that there is nothing."""
    place.write("job.py", LOSE)
    place.write("pyproject.toml", "[tool.sessionwatch]\noutput = '/nonexistent/x'\n")
    for options in ([], ["--format", "json"], ["--output", "report"], ["--format", "html", "--output", "report"]):
        outcome = place.sessionwatch("run", *options, "job.py")
        assert outcome.status == 0
        said = outcome.err + ((place.path / "report").read_text() if "report" in options else "")
        assert "1 process not watched: ConfigError: output /nonexistent/x can't be written" in said
        assert "no findings" not in outcome.err
