"""``sessionwatch demo``: a small order service with bugs, run under sessionwatch, then repaired.

``faulty`` and ``repaired`` are programs as anybody writes them; nothing in them knows sessionwatch.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .database import Database

FOLDER = Path(__file__).resolve().parent
SECONDS = 60  # for one half; it takes about one

_NEW_ORDERS = ("A-1001", "A-1002", "A-1003")

HALVES = {
    "faulty": f"A small order service with bugs in it, unmodified:\n\n$ cd {FOLDER}",
    "repaired": "\nThe same service, repaired (diff -ru faulty repaired):\n",
}

DESCRIPTION = """\
Show sessionwatch at work on a small order service that has bugs.

The service runs twice under `sessionwatch run`, unmodified: first with its bugs, then repaired.
Each bug carries a comment such as `# bug: lost-writes`; the report has to point at those lines,
and must say nothing about the repaired service. SQLite in a temporary file is used by default.
"""

EPILOG = f"""\
examples:
  sessionwatch demo
  sessionwatch demo --database-url postgresql+psycopg://me@localhost/test
  sessionwatch demo --keep          leave the tables, to look into them

the service is in {FOLDER}
exit status: 0 both halves behaved as they should, 1 they did not, 2 the database can't be used
"""

NEXT = """\
Next:
  sessionwatch run your_script.py     your own program, as it is (also: -m MODULE, -- COMMAND)
  pytest --sessionwatch=strict        a finding fails its test
  sessionwatch explain lost-writes    what a rule reports, what it ignores, how to allow a place"""


class Place(NamedTuple):
    """A rule and the line that it points to, ``path`` relative to the demonstration's folder."""

    rule: str
    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.rule} at {self.path}:{self.line}"


def main(argv: Sequence[str] | None = None, kind: type[argparse.ArgumentParser] = argparse.ArgumentParser) -> int:
    """Run the demonstration and return its exit status."""
    options = _parser(kind).parse_args(argv)
    from .database import DatabaseError

    try:
        return _demonstrate(options.database_url, options.keep)
    except DatabaseError as error:
        sys.stderr.write(f"sessionwatch: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def marked(half: str, with_asyncio: bool) -> set[Place]:
    """The places in one half that carry a ``# bug:`` comment."""
    places = set()
    for path in sorted((FOLDER / half).glob("*.py")):
        if path.name == "packing.py" and not with_asyncio:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if mark := re.search(r"# bug: ([a-z-]+)$", line):
                places.add(Place(mark[1], f"{half}/{path.name}", number))
    return places


def _parser(kind: type[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = kind(
        prog="sessionwatch demo",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--database-url",
        metavar="URL",
        help="a database to use instead; the tables sessionwatch_demo_* are made in it and dropped at the end",
    )
    parser.add_argument("--keep", action="store_true", help="leave the tables or SQLite files and say where they are")
    return parser


def _demonstrate(url: str | None, keep: bool) -> int:
    from .database import prepared, temporary_folder

    with temporary_folder(keep and url is None) as folder:
        problems = []
        for name, title in HALVES.items():
            with prepared(url or f"sqlite:///{folder}/{name}.db", keep) as database:
                _say(title)
                page = _page() if name == "faulty" else None
                problems += _half(name, database, folder / f"{name}.jsonl", page)
        if keep:
            _say(f"\nKept: {'the tables sessionwatch_demo_* of the repaired service' if url else folder}")
    if problems:
        _say("\nThe demonstration did not go as it should:\n" + "\n".join(f"  {problem}" for problem in problems))
        return 1
    _say(f"\n{NEXT}")
    return 0


def _page() -> Path:
    """Where the faulty half's report goes, to be looked at afterwards."""
    return Path(tempfile.mkdtemp(prefix="sessionwatch-report-")) / "report.html"


def _half(name: str, database: Database, findings: Path, page: Path | None) -> list[str]:
    """Run one half and show what it says and what is in its tables; return what was not as it should be."""
    options = ["--report", f"html:{page}"] if page is not None else []
    _say(f"$ {' '.join(['sessionwatch', 'run', *options, '-m', f'{name}.main'])}")
    problems = _run(name, database, findings, options)
    if page is not None:
        _say(f"\nThe same as a page, with a picture of what every session did: {page}")
    problems += _compare_rows(name, database.orders())
    if database.async_url is None and name == "faulty":
        _say("The asyncio part is skipped: it needs greenlet and an asyncio driver such as aiosqlite.")
    return problems + _compare(marked(name, database.async_url is not None), _found(findings))


def _run(name: str, database: Database, findings: Path, options: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "sessionwatch", "run", *options, "-m", f"{name}.main"]
    try:
        ended = subprocess.run(
            command,
            cwd=FOLDER,
            env=_environment(database, findings),
            stderr=subprocess.STDOUT,  # one stream, so that the report stands below what the program says
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [f"{name}: not finished after {SECONDS} s"]
    return [f"{name}: exit status {ended.returncode}"] if ended.returncode else []


def _environment(database: Database, findings: Path) -> dict[str, str]:
    """The program's environment: its database, the user's own settings of sessionwatch left out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SESSIONWATCH_")}
    kept.pop("PYTHONSAFEPATH", None)  # `-m faulty.main` is found from the working directory
    kept.pop("ASYNC_DATABASE_URL", None)
    kept |= {
        "DATABASE_URL": database.url.render_as_string(hide_password=False),
        "PYTHONPATH": _search_path(kept.get("PYTHONPATH", "")),
        "PYTHONUNBUFFERED": "1",
        "SESSIONWATCH_OUTPUT": str(findings),
    }
    if database.async_url is not None:
        kept["ASYNC_DATABASE_URL"] = database.async_url.render_as_string(hide_password=False)
    return kept


def _search_path(given: str) -> str:
    """``PYTHONPATH`` for another working directory: absolute, and with sessionwatch where it runs from a checkout."""
    entries = [os.path.abspath(entry) for entry in given.split(os.pathsep) if entry]
    home = str(FOLDER.parent.parent)
    if "site-packages" not in home and "dist-packages" not in home:
        entries.append(home)
    return os.pathsep.join(entries)


def _found(findings: Path) -> set[Place]:
    if not findings.exists():
        return set()
    lines = map(json.loads, findings.read_text(encoding="utf-8").splitlines())
    return {Place(line["rule"], line["path"], line["line"]) for line in lines}


def _compare(marks: set[Place], found: set[Place]) -> list[str]:
    missed = [f"not found: {place}" for place in sorted(marks - found)]
    return missed + [f"found, but not marked: {place}" for place in sorted(found - marks)]


def _compare_rows(name: str, orders: dict[str, str]) -> list[str]:
    """Say what is in the tables; the faulty half must have lost its work, the repaired one must not."""
    created = sum(number in orders for number in _NEW_ORDERS)
    shipped = list(orders.values()).count("shipped")
    _say(f"\nIn the database: {created} of {len(_NEW_ORDERS)} new orders, {shipped} shipped.")
    expected = (0, 0) if name == "faulty" else (len(_NEW_ORDERS), 1)
    if (created, shipped) == expected:
        return []
    return [f"{name}: {created} new orders and {shipped} shipped in the tables, expected {expected}"]


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()  # the programs write to the same place
