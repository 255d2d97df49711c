"""``sessionwatch run``: start a program as it is, and report when it has ended.

The program runs in a child process that is Python itself, so its arguments, ``__main__``, tracebacks and
exit status are Python's own. The watch gets into it, and into every process that it starts, by the
``sitecustomize`` in the folder ``autostart``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import IO, Literal, NamedTuple

from .. import config, rules
from ..model import ConfigError, SessionwatchError
from ..output import formats, journal, records
from ..output.about import about
from ..output.escape import visible_lines
from ..output.report import Report, wants_colour, width_of
from ..output.safe import open_file, text_file
from ..output.store import Store
from ..watch import baseline
from .handlers import kept_waiting
from .process import end_like, supervise

AUTOSTART = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "autostart")

NOT_WATCHED = 2  # the exit status of --fail for a process that could not be watched


Kind = Literal["script", "module", "command"]


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for in front of the program."""

    mode: str | None = None
    rules: tuple[str, ...] = ()
    format: str = "text"
    output: str | None = None
    fail: bool = False
    unused_allows: bool = False
    verbose: bool = False
    reports: tuple[str, ...] = ()  # FORMAT:FILE, beside the one above

    @property
    def formats(self) -> frozenset[str]:
        """All that are asked for."""
        return frozenset((self.format, *(formats.split(one)[0] for one in self.reports)))


class Command(NamedTuple):
    """What to start; ``executable`` where ``argv[0]`` is only its name."""

    argv: list[str]
    executable: str | None = None


class Files(NamedTuple):
    """Where watched processes write: findings to one file; notes about themselves, and counts, to a folder.

    ``recording``: what sessions did, where the format shows it.
    """

    folder: str
    findings: str
    recording: str | None = None

    @property
    def notes(self) -> str:
        return os.path.join(self.folder, "notes.jsonl")


def run(options: Options, kind: Kind, program: Sequence[str]) -> int:
    """Run ``program`` under the watch; the exit status to end with.

    Ends this process by the signal that ended the program, where one did. Raises `ConfigError` and other
    `SessionwatchError` for what can be known to be wrong before the program starts.
    """
    formats.find(options.format)
    if options.mode is not None:
        config.check_mode(options.mode, "--mode")
    levels = config.parse_pairs(",".join(options.rules), "--rules")
    settings = config.load(rules.ALL, keywords={"rules": levels}, keywords_from="--rules")
    missing = baseline.notice(settings.baseline)
    if missing:
        _say(f"sessionwatch: {missing}")
    command = find_command(kind, program)
    for one in options.reports:
        formats.write(formats.split(one)[1], "")  # a mistake is told before the program starts
    with kept_waiting() as signals, _opened(options.output) as target, _private_folder() as folder:
        files = _files(options, folder)
        status = supervise(command.argv, _environment(options, files), command.executable) if not signals else 0
        failure = _afterwards(options, files, target, settings, _shown(kind, program))
    if status < 0 or signals:
        return end_like(-status if status < 0 else signals[0])
    return failure if options.fail and status == 0 else status


# -- what to start ----------------------------------------------------------------------------------


def find_command(kind: Kind, program: Sequence[str]) -> Command:
    """The command line that runs ``program`` as it would run without sessionwatch."""
    if not program or not program[0]:
        raise ConfigError("nothing to run: give a SCRIPT, -m MODULE or -- COMMAND")
    if kind == "command":
        return _console_script(program)
    if kind == "module":
        return Command([*_interpreter(), "-m", *program])
    if program[0] != "-" and not os.path.exists(program[0]):
        hint = f"; it is a command: sessionwatch run -- {program[0]} ..." if shutil.which(program[0]) else ""
        raise ConfigError(f"no such script: {program[0]}{hint}")
    return Command([*_interpreter(), *program])


def _console_script(program: Sequence[str]) -> Command:
    name, *arguments = program
    found = shutil.which(name)
    if found:
        return Command([name, *arguments], found)
    beside = shutil.which(name, path=os.path.dirname(sys.executable))  # an environment that is not activated
    if beside and not os.path.dirname(name):
        return Command([beside, *arguments])
    if os.path.isfile(name):
        raise ConfigError(f"{name} is not executable; to run it with Python: sessionwatch run {name} ...")
    raise ConfigError(f"no such command: {name}")


def _interpreter() -> list[str]:
    if not sys.executable:
        raise ConfigError("Python does not know where its own program is (sys.executable is empty)")
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise ConfigError("sessionwatch gets into a program by PYTHONPATH: run it without Python's -I, -E and -S")
    return [sys.executable, *_interpreter_options()]


def _interpreter_options() -> list[str]:
    """What stands between ``python`` and ``-m sessionwatch``: meant for the program, such as ``-X dev``."""
    head = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    if head[-1:] == ["sessionwatch"] and len(head) > 1:
        *head, last = head[:-1]
    elif head and head[-1].endswith("msessionwatch"):
        *head, last = [*head[:-1], head[-1].removesuffix("sessionwatch")]
    else:
        return []
    return head if last == "-m" else [*head, last.removesuffix("m")]


# -- what watched processes are told ----------------------------------------------------------------


def _files(options: Options, folder: str) -> Files:
    findings = os.path.join(folder, "findings.jsonl")
    if options.format == "json" and options.output and os.path.isfile(options.output):
        findings = os.path.realpath(options.output)
    recording = os.path.join(folder, "recording.jsonl") if options.formats & formats.RECORDED else None
    files = Files(folder, findings, recording)
    try:
        for path in (files.findings, files.notes):
            os.close(open_file(path, os.O_CREAT, 0o600))
        journal.reserve(folder)
    except OSError as error:
        raise SessionwatchError(f"can't write to {folder}: {error.strerror}") from error
    return files


def _environment(options: Options, files: Files) -> dict[str, str]:
    """The environment, with what ``autostart`` is to know, and ``--mode`` and ``--rules`` as settings."""
    path = os.environ.get("PYTHONPATH")
    told = {
        "SESSIONWATCH_RUN": json.dumps(files._asdict()),
        "PYTHONPATH": f"{AUTOSTART}{os.pathsep}{path}" if path else AUTOSTART,  # an empty part would be a folder
    }
    if options.mode is not None:
        told["SESSIONWATCH_MODE"] = options.mode
    if options.rules:  # behind what is there: the last word on a rule counts
        told["SESSIONWATCH_RULES"] = ",".join([os.environ.get("SESSIONWATCH_RULES", ""), *options.rules])
    return {**os.environ, **told}


@contextmanager
def _private_folder() -> Iterator[str]:
    try:
        folder = tempfile.mkdtemp(prefix="sessionwatch-")
    except OSError as error:
        raise SessionwatchError(f"no folder for temporary files: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _complete(files: Files) -> None:
    """Add the last line of each finding whose process ended before it could write its final count."""
    last = {journal.place(record): record for record in records.read(files.findings, strict=False)}
    with open(files.findings, "a", encoding="ascii") as stream:
        for place, count in journal.counts(files.folder):
            record = last.get(place)
            if record and count > record["count"]:
                record["count"] = count
                stream.write(json.dumps(record) + "\n")


# -- what people are told ---------------------------------------------------------------------------


@contextmanager
def _opened(output: str | None) -> Iterator[IO[str] | None]:
    """``--output``, emptied before the program starts, so that a mistake is told at once."""
    if output is None:
        yield None
        return
    try:
        target = text_file(output)
    except OSError as error:
        raise ConfigError(f"can't write {output}: {error.strerror}") from error
    try:
        yield target
    finally:
        with suppress(OSError):  # what could not be written was told, and stays in its buffer
            target.close()


def _shown(kind: Kind, program: Sequence[str]) -> str:
    """The command without the program's arguments."""
    before = {"script": "", "module": "-m ", "command": "-- "}[kind]
    return f"sessionwatch run {before}{program[0]}"


def _afterwards(options: Options, files: Files, target: IO[str] | None, settings: config.Config, command: str) -> int:
    """Report; what ``--fail`` makes of a 0: 1 for a finding that nothing allows, 2 where nobody can know of one.

    Nothing here may cost the program its exit status.
    """
    try:
        notes = records.notes(files.notes)
        lost = _lost(files)
        if lost is not None:
            notes.append({"event": "lost", "error": lost})
        found = Store.of(records.read(files.findings, strict=False))
        made = Report(
            seen=list(found),
            notes=notes,
            unused=options.unused_allows,
            verbose=options.verbose,
            recording=records.lines(files.recording) if files.recording else None,
            about=about(command),
            through=settings.through,
            absent=baseline.absent(settings, [item.finding for item in found]) if "sarif" in options.formats else (),
        )
        told = _tell(options, files, target, made)
        for name, file in map(formats.split, options.reports):
            formats.write(file, formats.find(name)(made))
        return 1 if made.shown else NOT_WATCHED if made.failures() or not told else 0
    except Exception as error:
        _say(f"sessionwatch: the report can't be made: {type(error).__name__}: {error}")
        return NOT_WATCHED


def _lost(files: Files) -> str | None:
    """Why findings are missing: a watched process could not write them, or we can't add their counts."""
    try:
        _complete(files)
    except OSError as error:
        return error.strerror
    return journal.failure(files.folder)


def _tell(options: Options, files: Files, target: IO[str] | None, made: Report) -> bool:
    """Write the report; whether it was written where it was asked for."""
    stream, why = target or sys.stderr, None
    if options.format == "json":
        if not (target and os.path.samefile(files.findings, target.fileno())):
            why = _write(stream, _content(files.findings))
    else:
        made = replace(made, colour=wants_colour(stream), width=width_of(stream))
        why = _write(stream, formats.find(options.format)(made))
    for line in made.failures() if target or options.format != "text" else ():
        _say(line)
    if target and why is not None:
        _say(f"sessionwatch: can't write {options.output}: {why}; {made.totals().removeprefix('sessionwatch: ')}")
    elif options.fail and target:
        _say(f"{made.totals()}; see {options.output}")
    return why is None or target is None


def _write(stream: IO[str] | None, text: str) -> str | None:
    """To ``--output`` or to stderr, which nobody may read any more, or which the caller closed: why it failed."""
    try:
        if stream is not None:
            stream.write(text)
            stream.flush()
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)
    return None


def _say(text: str) -> None:
    _write(sys.stderr, visible_lines(text) + "\n")


def _content(path: str) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.read()
