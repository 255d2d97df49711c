"""``sessionwatch audit PATH``: the inventory of a code base, read from its source."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ..audit.result import Audit

_Parser = TypeVar("_Parser", bound=argparse.ArgumentParser)
FORMATS = ("text", "json", "sarif", "html")

ABOUT = """\
Read Python files, without importing or running them, and list what they do with SQLAlchemy sessions: where
sessions are made, which operations run on them, and where they are used in a way that loses data, blocks the
event loop or fails later. Each anti-pattern names the rule that reports it at run time.

  certain   the code shows it: nothing outside of the audited files can make it right
  likely    it depends on a caller, a setting or data that the files do not show

Files are ordered by the work that is left in them. A comment on the line accepts one and gives the reason:
# sessionwatch: allow RULE -- the reason
"""
EXAMPLES = """\
examples:
  sessionwatch audit src                                     a table by file, then each place
  sessionwatch audit src --format json > before.json         keep it, and later
  sessionwatch audit src --since before.json                 see what is gone and what is new
  sessionwatch audit src --findings findings.jsonl           mark what a run has seen, too
  sessionwatch audit src --fail                              in CI: exit status 1 where there is a certain one

exit status: 0, with --fail 1 where a certain one is left that no comment allows; 2 where PATH can't be read.
Files that do not parse are named and do not stop it. Notebooks and .pyi files are left out.
"""


def add(commands: argparse._SubParsersAction[_Parser]) -> None:
    """Add the subcommand."""
    text = "what a code base does with sessions, read from its source"
    parser = commands.add_parser("audit", help=text, description=ABOUT, epilog=EXAMPLES)
    parser.add_argument("path", metavar="PATH", help="a folder or one Python file")
    parser.add_argument("--format", choices=FORMATS, default="text", help="default: text")
    parser.add_argument("--output", metavar="FILE", help="where it goes (default: stdout)")
    parser.add_argument("--since", metavar="EARLIER.json", help="an earlier --format json: what went and what came")
    parser.add_argument("--findings", metavar="FINDINGS.jsonl", help="what `run --format json` wrote: mark what it saw")
    parser.add_argument("--fail", action="store_true", help="exit status 1 where a certain one is left")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """The audit as the command line asks for it; the exit status."""
    from ..audit import analyse, changes
    from ..audit.formats import FORMATS as RENDERERS

    audit = analyse.audit(options.path, _progress())
    if options.findings is not None:
        changes.mark_seen(audit, options.findings)
    compared = changes.since(audit, options.since) if options.since is not None else None
    _write(RENDERERS[options.format](audit, compared, _wants_colour(options)), options.output)
    return 1 if options.fail and _fails(audit) else 0


def _fails(audit: Audit) -> bool:
    if audit.failing and not sys.stderr.isatty():
        print(f"sessionwatch audit: {len(audit.failing)} certain, which no comment allows", file=sys.stderr)
    return bool(audit.failing)


def _write(text: str, path: str | None) -> None:
    from ..output import formats

    if path is None:
        sys.stdout.write(text)
    else:
        formats.write(path, text)


def _wants_colour(options: argparse.Namespace) -> bool:
    from ..output.report import wants_colour

    return options.format == "text" and options.output is None and wants_colour(sys.stdout)


def _progress() -> Callable[[str, int, int], None] | None:
    """A bar on stderr, where that is a terminal and the tree is large."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None

    def show(what: str, done: int, total: int) -> None:
        if total < 50 or (done % 10 and done != total):
            return
        filled = "#" * (30 * done // total)
        sys.stderr.write(f"\r{filled:<30} {done}/{total} files {what}")
        if done == total:
            sys.stderr.write("\r\033[K")
        sys.stderr.flush()

    return show
