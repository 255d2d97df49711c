"""The ``sessionwatch`` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..model import LEVELS, MODES, SessionwatchError, project_root
from ..output.escape import visible, visible_lines
from . import baseline, settings
from . import rules as rules_command
from .parser import FAILED, Commands, Parser
from .tables import add_format, read_findings

if TYPE_CHECKING:
    from ..output.report import Report
    from ..output.store import Store

OVERVIEW = """\
Finds where SQLAlchemy sessions lose data, leak, or are used after their end.

  sessionwatch run shop.py --port 8000          an unmodified script
  sessionwatch run -m shop.worker               a module, as with python -m
  sessionwatch run -- uvicorn shop:app          any command that runs Python
  sessionwatch demo                             a small program with bugs, and what is said about them
  sessionwatch explain lost-writes              what a finding means, and what to do about it
"""

RUN_USAGE = "sessionwatch run [OPTIONS] (SCRIPT | -m MODULE | -- COMMAND) [ARGUMENTS ...]"

RUN = """\
Run a program as it is, and report about its sessions on stderr when it has ended.

The program keeps its arguments, its output, its exit status and its signals. Processes that it starts
(workers, pools, subprocesses) are watched as well. Options stand in front of the program; whatever
follows it is its own.
"""

RUN_EXAMPLES = """\
examples:
  sessionwatch run shop.py --port 8000
  sessionwatch run -m shop.worker
  sessionwatch run -- gunicorn --workers 2 shop:app
  sessionwatch run --fail -- pytest -q                     in CI: exit status 1 where there is a finding
  sessionwatch run --format json --output findings.jsonl shop.py
  sessionwatch run --rules session-leak=off,detached-touch=log shop.py

exit status: the program's own; 2 where the program can't be started. --fail turns a 0 into 1 where there is a
finding, and else into 2 where a process could not be watched.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: that of this process); the exit status."""
    try:
        _tell_strange_variables()
        status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except SessionwatchError as error:
        print(f"sessionwatch: error: {visible_lines(str(error))}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # as in `sessionwatch rules | head -1`; Python flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _tell_strange_variables() -> None:
    if any(name.startswith("SESSIONWATCH_") for name in os.environ):  # else without an import
        from ..config import strange_variables

        for line in strange_variables():
            print(f"sessionwatch: {visible_lines(line)}", file=sys.stderr)


def _dispatch(arguments: list[str]) -> int:
    match arguments:
        case []:
            _parser().print_help(sys.stderr)
            return FAILED
        case ["run", *rest]:
            return _run(rest)
        case ["demo", *rest]:
            from .. import demo

            return demo.main(rest, Parser)
        case ["baseline", *rest]:  # a flag in front of the file would end the arguments for argparse
            arguments = ["baseline", *sorted(rest, key=lambda argument: argument == "--timed")]
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _parser() -> Parser:
    from . import audit

    parser = Parser(prog="sessionwatch", description=OVERVIEW)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("run", help="run a program and report about its sessions")
    commands.add_parser("demo", help="run a small order service with its bugs, then repaired")
    rules_command.add(commands)
    settings.add(commands)
    _add_check(commands)
    _add_report(commands)
    baseline.add(commands)
    audit.add(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from .._version import __version__

        print(f"sessionwatch {__version__}")
        parser.exit()


# -- run --------------------------------------------------------------------------------------------


def _run_parser() -> Parser:
    parser = Parser(
        prog="sessionwatch run",
        usage=RUN_USAGE,
        description=RUN,
        epilog=RUN_EXAMPLES,
        allow_abbrev=False,
    )
    parser.add_argument("--mode", metavar="MODE", help=f"{' | '.join(MODES)} (default: as configured, else log)")
    parser.add_argument(
        "--rules",
        metavar="RULE=LEVEL,...",
        action="append",
        default=[],
        help=f"set rules to {' | '.join(LEVELS)}",
    )
    _add_formats(parser)
    parser.add_argument("--output", metavar="FILE", help="where the report goes (default: stderr)")
    parser.add_argument(
        "--report",
        metavar="FORMAT:FILE",
        action="append",
        default=[],
        help="another report of the same run, into a file (several times)",
    )
    parser.add_argument(
        "--fail",
        action="store_true",
        help="exit status 1 instead of 0 where there is a finding, 2 where a process could not be watched",
    )
    parser.add_argument("--unused-allows", action="store_true", help="list allowances that matched nothing")
    return parser


def _run(arguments: list[str]) -> int:
    parser = _run_parser()
    own, kind, program = split_program(arguments, _with_value(parser))
    options = parser.parse_args(own)
    from . import run

    return run.run(
        run.Options(
            mode=options.mode,
            rules=tuple(options.rules),
            format=options.format,
            output=options.output,
            fail=options.fail,
            unused_allows=options.unused_allows,
            verbose=options.verbose,
            reports=tuple(options.report),
        ),
        kind,
        program,
    )


def _with_value(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions if action.nargs is None for name in action.option_strings}


def split_program(arguments: Sequence[str], with_value: set[str]) -> tuple[list[str], Any, list[str]]:
    """Our own options, what kind of program follows ("script", "module", "command"), the program.

    ``with_value`` names our options that take a value. By hand, because argparse would look for options
    of ours among the program's.
    """
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        own = list(arguments[:position])
        if argument in ("-m", "--"):
            return own, "module" if argument == "-m" else "command", list(arguments[position + 1 :])
        if argument == "-" or not argument.startswith("-"):
            return own, "script", list(arguments[position:])
        position += 2 if argument in with_value else 1
    return list(arguments), "script", []


# -- check and report ------------------------------------------------------------------------------


def _add_formats(parser: argparse.ArgumentParser) -> None:
    from ..output.formats import FORMATS, NAMES

    told = "; ".join(f"{item.name}: {item.help}" for item in FORMATS)
    parser.add_argument("--format", metavar="FORMAT", default=NAMES[0], help=f"{told} (default: {NAMES[0]})")
    parser.add_argument("-v", "--verbose", action="store_true", help="all callers in the text, and what is known")


CHECK = """\
Look at the settings of an engine or a sessionmaker, without running the program.

  sessionwatch check shop.db:SessionLocal        a sessionmaker or async_sessionmaker, with its engine
  sessionwatch check shop.db:engine              an engine, sync or asyncio
  sessionwatch check shop:state.Session          an attribute of an attribute

It imports the module, with the working directory on the path, and says what `sessionwatch explain config`
describes: expire_on_commit under asyncio, autoflush, SQLite's foreign keys (for which it connects), one
connection for all threads.
"""
CHECKED = "exit status: 0 nothing to report, 1 findings, 2 the object can't be imported or is something else"


def _add_check(commands: Commands) -> None:
    text = "the settings of an engine or a sessionmaker"
    parser = commands.add_parser("check", help=text, description=CHECK, epilog=CHECKED)
    parser.add_argument("target", metavar="MODULE:OBJECT")
    add_format(parser)
    parser.set_defaults(command=_check)


def _check(options: argparse.Namespace) -> int:
    import json

    from .. import config, rules
    from ..output.formats import find
    from ..output.records import as_record
    from ..output.report import Report, wants_colour, width_of
    from ..output.store import Store
    from . import check

    effective = config.load(rules.ALL)
    with project_root(effective.root):
        found = check.check(options.target, effective.baseline)
        records = [as_record(finding) for finding in found]
    if options.format == "json":
        sys.stdout.writelines(json.dumps(record) + "\n" for record in records)
    elif records:
        report = Report(seen=list(Store.of(records)), colour=wants_colour(sys.stdout), width=width_of(sys.stdout))
        sys.stdout.write(find("text")(report))
    else:
        print(f"{visible(options.target)}: nothing to report")
    return 1 if any(not finding.covered for finding in found) else 0


REPORT = """\
Show findings that were kept in a file, in any format, without running the program again.

A file is what `run --format json --output FILE`, `pytest --sessionwatch-output FILE` or SESSIONWATCH_OUTPUT has
written. Several files, of workers or of several jobs, are one report.
"""
REPORT_EXAMPLES = """\
examples:
  sessionwatch report findings.jsonl                                   what to change, by cause
  sessionwatch report findings.jsonl -v                                all callers, and what the baseline knows
  sessionwatch report findings.jsonl --format patch | git apply        make the certain edits
  sessionwatch report findings.jsonl --format html --output report.html
  sessionwatch report job-*.jsonl --format sarif --output sessionwatch.sarif

exit status: 0, also with findings; 2 where a file can't be read. In CI: `run --fail`, `pytest --sessionwatch=strict`.
"""


def _add_report(commands: Commands) -> None:
    text = "show the findings of a file that run --format json has written"
    parser = commands.add_parser("report", help=text, description=REPORT, epilog=REPORT_EXAMPLES)
    parser.add_argument("findings", metavar="FINDINGS.jsonl", nargs="+")
    _add_formats(parser)
    parser.add_argument("--output", metavar="FILE", help="where the report goes (default: stdout)")
    parser.set_defaults(command=_report)


def _of_files(options: argparse.Namespace, store: Store) -> Report:
    from .. import config, rules
    from ..output.report import Report, wants_colour, width_of
    from ..watch import baseline as baseline_in_use

    effective = config.load(rules.ALL)
    sarif = options.format == "sarif"
    return Report(
        seen=list(store),
        colour=not options.output and wants_colour(sys.stdout),
        width=width_of(None if options.output else sys.stdout),
        verbose=options.verbose,
        through=effective.through,
        absent=baseline_in_use.absent(effective, [item.finding for item in store]) if sarif else (),
        file=options.findings[0] if len(options.findings) == 1 else None,
    )


def _report(options: argparse.Namespace) -> int:
    from ..output import formats
    from ..output.store import Store

    render = formats.find(options.format)
    store = Store()
    for path in options.findings:
        store.merge(read_findings(path), path)
    text = render(_of_files(options, store))
    if options.output:
        formats.write(options.output, text)
    else:
        sys.stdout.write(text)
    return 0
