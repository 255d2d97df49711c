"""Mistakes in how the command is called: one clear line, exit status 2, and the program was not started."""

from __future__ import annotations

import os
import sys

import pytest

from tests.cli.programs import Outcome, Place


@pytest.fixture
def job(place: Place) -> Place:
    """``job.py`` tells whether it was started."""
    place.write("job.py", "print('started')")
    return place


def refused(place: Place, *argv: object, **options: object) -> str:
    outcome: Outcome = place.sessionwatch(*argv, **options)
    assert (outcome.status, outcome.out) == (2, ""), outcome
    first = outcome.err.splitlines()[0]
    assert first.startswith("sessionwatch: error: ")
    assert "Traceback" not in outcome.err
    return first.removeprefix("sessionwatch: error: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mode", "strikt"], "unknown mode 'strikt' (--mode): choose one of log, strict, telemetry, off. Did"),
        (["--rules", "lost-write=off"], "unknown rule 'lost-write' (--rules). Did you mean 'lost-writes'?"),
        (["--rules", "lost-writes=of"], "rule 'lost-writes' can't be set to 'of' (--rules): choose one of off, log, r"),
        (["--rules", "lost-writes"], "--rules: expected NAME=VALUE, got 'lost-writes'"),
        (["--format", "yaml"], "unknown format 'yaml'"),
        (["--output", "no/such/folder/file"], "can't write no/such/folder/file: No such file or directory"),
        (["--output", "."], "can't write .: Is a directory"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
)  # fmt: skip
def test_options(job: Place, options: list[str], message: str) -> None:
    """A wrong option names what it takes, and the nearest name."""
    assert refused(job, "run", *options, "job.py").startswith(message)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission(job: Place) -> None:
    """A file that may not be written is told before the program starts."""
    job.write("report.txt", "", mode=0o444)
    assert refused(job, "run", "--output", "report.txt", "job.py") == "can't write report.txt: Permission denied"


@pytest.mark.parametrize("program", [[], ["-m"], ["--"], [""], ["--fail"]])
def test_nothing_to_run(job: Place, program: list[str]) -> None:
    """Without a program, the three ways to name one are told."""
    assert refused(job, "run", *program) == "nothing to run: give a SCRIPT, -m MODULE or -- COMMAND"


def test_missing_script(job: Place) -> None:
    """A script that is not there is not found by another meaning, but the other meaning is told."""
    assert refused(job, "run", "shops.py") == "no such script: shops.py"
    job.write("bin/serve", "#!/bin/sh\n", mode=0o755)
    env = {"PATH": f"bin{os.pathsep}{job.env['PATH']}"}
    message = "no such script: serve; it is a command: sessionwatch run -- serve ..."
    assert refused(job, "run", "serve", env=env) == message


def test_missing_command(job: Place) -> None:
    """A command that is not on the path, and a file that can't be executed, are told apart."""
    assert refused(job, "run", "--", "no-such-command") == "no such command: no-such-command"
    expected = "./job.py is not executable; to run it with Python: sessionwatch run ./job.py ..."
    assert refused(job, "run", "--", "./job.py") == expected


def test_file_that_the_system_cannot_start(job: Place) -> None:
    """A file that is marked executable and is no program is told as the system tells it."""
    job.write("job.bin", "\x00\x01\x02", mode=0o755)
    assert refused(job, "run", "--", "./job.bin") == "./job.bin can't be started: Exec format error"


def test_missing_module_is_pythons_to_report(job: Place) -> None:
    """A module that can't be found is reported by Python in its own words."""
    outcome = job.sessionwatch("run", "--output", "report.txt", "-m", "no_such_module")
    assert outcome == job.python("-m", "no_such_module")


@pytest.mark.parametrize("option", ["-I", "-E", "-S"])
def test_isolated_interpreter(job: Place, option: str) -> None:
    """An interpreter that was told to ignore its environment can't be entered, and that is said."""
    main = "import sys; sys.path[:0] = sys.argv.pop(1).split(':'); "
    main += "from sessionwatch.command.cli import main; sys.exit(main())"
    paths = ":".join([job.env["PYTHONPATH"], *sys.path[1:]])
    outcome = job.python(option, "-c", main, paths, "run", "job.py")
    assert (outcome.status, outcome.out) == (2, "")
    assert "run it without Python's -I, -E and -S" in outcome.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mode = 'loud'", "unknown mode 'loud' ({path}): choose one of log, strict, telemetry, off."),
        ("rule = {}", "unknown setting 'rule' in [tool.sessionwatch] of {path}. Did you mean 'rules'?"),
        ("mode =", "{path} can't be read: "),
    ],
)
def test_configuration(job: Place, text: str, message: str) -> None:
    """A mistake in ``pyproject.toml`` is told with the name of the file, by ``run`` and by ``config``."""
    path = job.write("pyproject.toml", f"[tool.sessionwatch]\n{text}\n")
    for command in (["run", "job.py"], ["config"]):
        assert refused(job, *command).startswith(message.format(path=path))


def test_environment(job: Place) -> None:
    """A mistake in the environment is told as one."""
    message = "unknown mode 'loud' (environment): choose one of log, strict, telemetry, off."
    assert refused(job, "run", "job.py", env={"SESSIONWATCH_MODE": "loud"}).startswith(message)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["explain", "lost-write"], "unknown rule 'lost-write'. Did you mean 'lost-writes'?"),
        (["explain"], "the following arguments are required: RULE"),
        (["reprot"], "unknown command 'reprot': choose one of run, demo"),
        (["report", "none.jsonl"], "can't read none.jsonl: No such file or directory"),
        (["report", "job.py"], "job.py:1 is not a line of JSON"),
    ],
)
def test_other_commands(job: Place, argv: list[str], message: str) -> None:
    """The other commands name what is wrong in the same form."""
    job.write("job.py", "print('started')\n")
    assert refused(job, *argv).startswith(message)
