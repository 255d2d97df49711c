"""Run SQLAlchemy's own tests bare and under sessionwatch, and prove that not one outcome changed.

SQLAlchemy's tests do everything wrong on purpose, so findings are expected and only counted. What may not
happen is that a test passes, fails, is skipped or warns itself into an error differently because
sessionwatch was there.

The first run makes two environments and keeps them (a minute); the bare outcomes are kept too, so that
later runs need the watched half only. Nothing outside of the cache folder is touched.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import installation
import outcomes
from halves import Half, Part
from installation import Host, UnavailableError
from outcomes import BadRunError, Change, Run, told

LINES = ("2.1.9", "2.0.58")
MATRIX = ["orm", "ext", "engine", "asyncio"]
SHUFFLED = "1"  # the number that the matrix shuffles by
SHOWN = 20  # changed tests, warnings; the rest is in the kept files

EXAMPLES = """examples:
  %(prog)s                                     2.1.9, log, by the pytest plugin
  %(prog)s --sqlalchemy 2.0.58 --mode telemetry
  %(prog)s --via run --parts asyncio           by `sessionwatch run -m pytest`
  %(prog)s test/orm/test_session.py            one file, while looking for a cause
  %(prog)s --parts orm,ext,asyncio,backend     also the backend tests over aiosqlite
  %(prog)s --apart --parts orm                 each file in a process of its own
  %(prog)s --order 7                           in random order, the same for the same number
  %(prog)s --matrix                            both lines, both modes, both ways, in order, shuffled and apart; hours

exit status: 0 nothing changed; 1 an outcome changed, sessionwatch had an internal error, or a test ran
without it; 2 the comparison could not be made."""

PARTS = {
    part.name: part
    for part in (
        Part("orm", "sqlite", ("test/orm",)),
        Part("ext", "sqlite", ("test/ext",)),
        Part("engine", "sqlite", ("test/engine",)),
        Part("asyncio", "aiosqlite", ("test/ext/asyncio", "test/base/test_concurrency*.py")),
        Part("backend", "aiosqlite", ("test/orm", "test/ext"), ("-m", "backend")),
    )
}


@dataclass
class Verdict:
    """What the comparison of one part came to."""

    bare: Run
    watched: Run
    changes: list[Change] = field(default_factory=list)
    internal: list[str] = field(default_factory=list)
    findings: Counter[str] = field(default_factory=Counter)

    @property
    def changed(self) -> list[Change]:
        return [change for change in self.changes if not change.flaky]

    @property
    def flaky(self) -> list[Change]:
        return [change for change in self.changes if change.flaky]

    @property
    def unwatched(self) -> int:
        watched, tests = self.watched.watched
        return tests - watched

    @property
    def good(self) -> bool:
        return not (self.changed or self.internal or self.unwatched)


class Suite:
    """All that one call of this command does."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.started = time.monotonic()
        self.cache: Path = options.cache
        self.bare = self.watched = Host(Path())
        self.keep = Path()
        self.versions: dict[str, str] = {}

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:5.0f} s] {text}", flush=True)

    def run(self) -> int:
        """Everything, start to end; the exit status."""
        options = self.options
        version, archive = installation.sdist(options.sqlalchemy, options.python, self.cache, self.say)
        home = self.cache / f"{version}-py{installation.python_version(options.python)}"
        self.keep = options.keep or home / f"last-{options.mode}-{options.via}"
        with installation.alone(home, self.say):
            self.prepare(home, version, archive)
            if options.bare_only:
                for part in chosen_parts(options):
                    self.bare_half(part)
                return 0
            verdicts = {part.name: self.part(part) for part in self.parts()}
        for name, verdict in verdicts.items():
            self.report(name, verdict)
        print(self.last_lines(list(verdicts.values())))
        return 0 if all(verdict.good for verdict in verdicts.values()) else 1

    def prepare(self, home: Path, version: str, archive: Path) -> None:
        """Make the environments that are needed; both must have the same versions of everything."""
        python = self.options.python
        self.bare = installation.host(home / "bare", version, archive, python, self.say)
        self.versions = self.bare.versions()
        self.say(", ".join(f"{name} {number}" for name, number in self.versions.items()))
        if self.options.bare_only:
            return
        self.watched = installation.host(home / "watched", version, archive, python, self.say)
        installation.put_sessionwatch(self.watched, self.say)
        if self.versions != self.watched.versions():
            raise BadRunError(f"the two environments in {home} differ; delete that folder and run again")

    def parts(self) -> list[Part]:
        """Those that were asked for, or each of their files."""
        chosen = chosen_parts(self.options)
        if not self.options.apart:
            return chosen
        return [one for part in chosen for one in files_of(part, self.bare.src)]

    # -- one part

    def part(self, part: Part) -> Verdict:
        """Both halves of a part, and again for the tests that differ."""
        bare, half = self.bare_half(part), self.half(part, "watched")
        watched = half.run(self.say)
        verdict = Verdict(bare, watched, outcomes.compare(bare, watched))
        verdict.internal, verdict.findings = half.internal_errors(), outcomes.findings(half.findings())
        if verdict.changes:
            verdict.changes = self.second_look(part, verdict.changes, bare)
        self.say(f"{part.name}: {len(verdict.changed)} of {len(bare.tests)} outcomes changed")
        return verdict

    def half(self, part: Part, name: str, only: Sequence[str] = ()) -> Half:
        watched, options = name.startswith("watched"), self.options
        host, via = (self.watched, options.via) if watched else (self.bare, "bare")
        files = self.keep / f"{part.name}.{name}"
        return Half(part, host, files, via, options.mode, options.workers, options.rules, tuple(only), options.order)

    def bare_half(self, part: Part) -> Run:
        """The bare outcomes: those given, those kept by an earlier run, or new ones, which are kept then."""
        half = self.half(part, "bare")
        given, kept = given_bare(self.options.bare_from, part), self.cache / "bare" / f"{self.key(part)}.jsonl"
        if given is None and (self.options.fresh or not kept.exists()):
            run = half.run(self.say)
            kept.parent.mkdir(exist_ok=True)
            shutil.copyfile(half.file("jsonl"), kept)
            return run
        source = given or kept
        run = outcomes.read(source)
        run.check(f"the bare run in {source}")
        self.say(f"{half.name}: {run.told()} (from {source})")
        if source != half.file("jsonl"):
            half.files.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, half.file("jsonl"))
        return run

    def key(self, part: Part) -> str:
        """A name for what the bare outcomes depend on."""
        options = self.options
        facts = [*sorted(self.versions.items()), part.db, part.paths, part.flags, options.workers > 0, options.order]
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:8]
        return f"{self.versions['sqlalchemy']}-py{self.versions['python']}-{part.name}-{digest}"

    def second_look(self, part: Part, changes: list[Change], bare: Run) -> list[Change]:
        """Run the differing tests once more, both ways: a test that is unstable bare says nothing about us."""
        only = [change.test for change in changes]
        self.say(f"{part.name}: {len(only)} outcomes differ; running those once more, both ways")
        again = self.half(part, "bare-again", only).run(self.say)
        repeated = outcomes.compare(again, self.half(part, "watched-again", only).run(self.say))
        self.say(f"{part.name}: {len(repeated)} of {len(only)} differ again")
        return outcomes.settle(changes, bare, again)

    # -- the report

    def report(self, name: str, verdict: Verdict) -> None:
        """What was found in one part, in as many lines as there is something to say."""
        kept = self.keep / f"{name}.watched"
        show(f"{name}: {len(verdict.changed)} changed", verdict.changed, f"{kept}.jsonl")
        show(f"{name}: {len(verdict.flaky)} flaky (unstable without sessionwatch)", verdict.flaky, f"{kept}.jsonl")
        new = outcomes.new_warnings(verdict.bare, verdict.watched).most_common()
        rows = [f"{number:5} x {text}" for text, number in new]
        show(f"{name}: warnings that only the watched run had (not counted as changed)", rows, f"{kept}.jsonl")
        rows = [f"{number:5} x {text}" for text, number in Counter(verdict.internal).most_common()]
        show(f"{name}: {len(verdict.internal)} internal errors of sessionwatch", rows, f"{kept}.internal.txt")
        if verdict.unwatched:
            print(f"\n{name}: {verdict.unwatched} tests ran without sessionwatch")

    def last_lines(self, verdicts: list[Verdict]) -> str:
        versions, options = self.versions, self.options
        found: Counter[str] = sum((verdict.findings for verdict in verdicts), Counter())
        bare, watched = (total([getattr(v, half) for v in verdicts]) for half in ("bare", "watched"))
        changed, flaky, internal = (sum(len(getattr(v, n)) for v in verdicts) for n in ("changed", "flaky", "internal"))
        return (
            f"\nfindings, each place once: {told(found) or 'none'}\nbare:    {told(bare)}\nwatched: {told(watched)}\n"
            f"SQLAlchemy {versions['sqlalchemy']}, Python {versions['python']}, {options.mode} by {options.via}: "
            f"{bare.total()} tests, {changed} changed, {flaky} flaky, {internal} internal errors"
        )


def files_of(part: Part, src: Path) -> list[Part]:
    """One part for each file of tests, for what a file before it hides."""
    found = [src / path for path in part.found(src)]
    files = [file for one in found for file in ([one] if one.is_file() else sorted(one.rglob("test_*.py")))]
    paths = [str(file.relative_to(src)) for file in files]
    return [
        replace(part, name=f"{part.name}-{path.replace('/', '-').removesuffix('.py')}", paths=(path,)) for path in paths
    ]


def show(title: str, rows: Sequence[object], where: str) -> None:
    """Print a title and its rows, if there are any."""
    if not rows:
        return
    print(f"\n{title}", *(f"  {row}" for row in rows[:SHOWN]), sep="\n")
    if len(rows) > SHOWN:
        print(f"  and {len(rows) - SHOWN} more, see {where}")


def given_bare(given: Path | None, part: Part) -> Path | None:
    """The file of ``--bare-from`` for this part; a folder is one that ``--keep`` filled."""
    return given / f"{part.name}.bare.jsonl" if given and given.is_dir() else given


def total(runs: list[Run]) -> Counter[str]:
    return sum((run.totals() for run in runs), Counter())


def chosen_parts(options: argparse.Namespace) -> list[Part]:
    if options.paths:
        return [Part("paths", options.db, tuple(options.paths))]
    return [PARTS[name] for name in options.parts]


def part_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"no part {', '.join(unknown) or text!r}; there are {', '.join(PARTS)}")
    return list(dict.fromkeys(names))


def folder(text: str) -> Path:
    return Path(text).expanduser().resolve()


def parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=shape)
    add_what(made)
    add_where(made)
    return made


def add_what(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("paths", nargs="*", help="files or folders of SQLAlchemy's tests (test/orm/…) instead of the parts")
    add("--sqlalchemy", default="2.1.9", metavar="VERSION", help="a version, a line (2.0) or newest; default: 2.1.9")
    help_mode = "default: log; strict fails tests for their findings, so there it does change outcomes"
    add("--mode", default="log", choices=("log", "telemetry", "strict"), help=help_mode)
    help_via = "by the pytest plugin, or by sessionwatch run -m pytest; default: plugin"
    add("--via", default="plugin", choices=("plugin", "run"), help=help_via)
    help_rules = "levels of rules, such as detached-touch=log: the hooks that otherwise only strict mode has"
    add("--rules", default="", metavar="RULE=LEVEL,…", help=help_rules)
    help_parts = (
        "of orm, ext (on SQLite), asyncio (SQLAlchemy's asyncio tests, on aiosqlite), backend (the tests of orm and"
        " ext that SQLAlchemy runs with every driver, on aiosqlite); default: orm,ext,asyncio"
    )
    add("--parts", default=["orm", "ext", "asyncio"], type=part_names, metavar="NAMES", help=help_parts)
    add("--db", default="sqlite", metavar="NAME", help="the database for PATHS, a name in SQLAlchemy's setup.cfg")
    add("--apart", action="store_true", help="each file in a process of its own, as it runs while nothing is before it")
    add("--order", default="", metavar="NUMBER", help="shuffle files, classes and tests by it; default: as they stand")
    add("--matrix", action="store_true", help="everything: LINES in MODES by WAYS, in order, shuffled and apart")
    add("--workers", default=2, type=int, metavar="N", help="of pytest-xdist; 0 for none; default: 2")


def add_where(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("--bare-from", type=folder, metavar="FILE", help="bare outcomes to compare with (or a folder of --keep)")
    add("--bare-only", action="store_true", help="run and keep the bare half only")
    add("--fresh", action="store_true", help="run the bare half anew although its outcomes are there")
    add("--keep", type=folder, metavar="DIR", help="where outcomes, findings and pytest's output go; else in the cache")
    help_cache = "environments, downloads, bare outcomes; default: $SESSIONWATCH_CACHE or in the user's cache"
    add("--cache", type=folder, default=installation.cache_folder(), metavar="DIR", help=help_cache)
    add("--python", default=sys.executable, metavar="PATH", help="the interpreter; default: this one")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.matrix:
        return matrix(options)
    return once(options)


def matrix(options: argparse.Namespace) -> int:
    """Every cell, also after one that failed; the exit status is the worst. The bare outcomes are kept between them."""
    statuses = []
    for line, mode, via in product(LINES, ("log", "telemetry"), ("plugin", "run")):
        for order, apart in (("", False), (SHUFFLED, False), ("", True)):
            cell = {"sqlalchemy": line, "mode": mode, "via": via, "order": order, "apart": apart, "parts": MATRIX}
            print(f"\n{line}, {mode} by {via}, {'file by file' if apart else 'shuffled' if order else 'in order'}")
            statuses.append(once(argparse.Namespace(**{**vars(options), **cell})))
    print(f"\n{statuses.count(0)} of {len(statuses)} cells without a change")
    return max(statuses)


def once(options: argparse.Namespace) -> int:
    try:
        return Suite(options).run()
    except (BadRunError, UnavailableError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
