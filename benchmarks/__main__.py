"""``python -m benchmarks``: the command line."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import (
    audit,
    bytecodes,
    check,
    children,
    examples,
    growth,
    instructions,
    memory,
    modes,
    page,
    startup,
    suite,
    tables,
    telemetry,
    wall,
    workloads,
)
from .databases import DRIVERS, UnavailableError

PARTS = ("instructions", "bytecodes", "examples", "wall", "memory", "growth", "startup", "suite", "telemetry")

DESCRIPTION = """What sessionwatch costs, beside a bare SQLAlchemy. Tables go to stdout (Markdown) and to a file (JSON).

parts:
  instructions  ratio of instructions to bare, counted by valgrind: repeatable to about 1.5 %, whatever else
                the machine does; about three minutes on two cores
  bytecodes     where they go: what each mode adds to a workload, function by function; half a minute
  examples      SQLAlchemy's own performance examples, bare and watched, counted as above; pip downloads the source
                distribution of the installed version, once, into $SESSIONWATCH_CACHE or ~/.cache/sessionwatch
  wall          ratio of wall time to bare, in slices that take turns: medians and quartiles; a few minutes
                a database; depends on what else the machine does
  memory        bytes a session, a closed record, a finding; resident memory over many sessions and objects
  growth        the cost of one operation with 10 and with 100,000 objects, sessions, threads, tasks; pictures
  startup       milliseconds of the import, and of install() with 500 mapped classes
  suite         processor time of test suites with the pytest plugin, against the same without it: that of
                Flask-SQLAlchemy, from its source distribution, and one that does nothing; five minutes
  telemetry     processor time and instructions a request of a FastAPI application on PostgreSQL: bare, with
                sessionwatch, with OpenTelemetry's instrumentation of SQLAlchemy; needs extra `bench`; long
  check         one sample of the instruction table against the bounds in benchmarks/check.py; exit status 1
                above one
  audit         seconds that `sessionwatch audit` takes for 100,000 lines; exit status 1 above 20 s on two cores
  keep FILE...  the JSON files of finished runs become benchmarks/results/ and docs/benchmarks.md; measures nothing

A part that fails is named at the end, and the others go on: exit status 1, or 2 where something is not installed.
"""

EPILOG = """examples:
  python -m benchmarks                                         # everything but check; half an hour
  python -m benchmarks --resume                                # only what an interrupted run did not get to
  python -m benchmarks instructions                            # the table of the modes
  python -m benchmarks instructions --workloads open+close --layouts 1   # while you change a hook; half a minute
  python -m benchmarks instructions wall --peers               # beside the other tools that are installed
  python -m benchmarks wall --databases psycopg,asyncpg
  python -m benchmarks memory growth --full                    # a million sessions and objects; long
  python -m benchmarks check                                   # for CI; says so where valgrind is not there
  python -m benchmarks keep benchmarks-2.0.json benchmarks-2.1.json   # the page of a release

The SQLAlchemy line is the environment's; `nox -s benchmarks` measures both lines, with the peers.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that were asked for; the exit status is 1 where a bound is exceeded."""
    options = _parser().parse_args(arguments)
    parts = options.parts or list(PARTS)
    if parts[0] == "keep":
        return _tried(lambda: _keep(options))
    print(f"{tables.environment()}\n", flush=True)
    if "audit" in parts:
        return _audit(options)
    return _tried(lambda: _check(options) if "check" in parts else _measure(parts, options))


def _tried(run: Callable[[], int]) -> int:
    try:
        return run()
    except UnavailableError as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="see above; all but check if none is given")
    parser.add_argument("--modes", type=_names((*modes.OURS, *modes.PEERS)), default=list(modes.OURS), metavar="A,B")
    parser.add_argument("--peers", action="store_true", help=f"and the peers: {', '.join(modes.PEERS)}")
    parser.add_argument(
        "--workloads", type=_names([w.name for w in workloads.ALL]), default=[], metavar="A,B", help=_workloads()
    )
    parser.add_argument("--databases", type=_names(DRIVERS), default=list(DRIVERS), metavar="A,B", help="wall: which")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="wall: slices of each mode (30)")
    parser.add_argument("--layouts", type=int, metavar="N", help="instructions: processes a mode (3; check: 1)")
    parser.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="processes at a time, where no time is taken (2)"
    )
    parser.add_argument("--full", action="store_true", help="memory, growth: up to a million")
    parser.add_argument(
        "--quick", action="store_true", help="everything very small: whether it runs, not what it costs"
    )
    parser.add_argument("--resume", action="store_true", help="keep the parts that are in the JSON file already")
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"), metavar="FILE", help="(benchmarks.json)")
    parser.add_argument("--docs", type=Path, default=children.ROOT / "docs", metavar="FOLDER", help="growth: pictures")
    return parser


def _names(known: Any) -> Any:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return chosen

    return names


def _workloads() -> str:
    return "; ".join(f"{workload.name}: {workload.title}" for workload in workloads.ALL)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _check(options: argparse.Namespace) -> int:
    line = ".".join(version("sqlalchemy").split(".")[:2])
    if line != check.LINE:
        raise UnavailableError(f"the bounds are those of SQLAlchemy {check.LINE}, and this is {line}")
    names = options.workloads or check.COUNTED
    counted = instructions.measure(
        check.MODES, names, samples=1, layouts=options.layouts or 1, jobs=options.jobs, say=_say
    )
    doubtful = [] if options.layouts else check.above(counted)
    if doubtful:  # where things lie in memory moves some of them by more than a step
        _say(f"above the bound, counted in three layouts: {', '.join(doubtful)}")
        again = instructions.measure(check.MODES, doubtful, samples=1, layouts=3, jobs=options.jobs, say=_say)
        for counts, anew in zip(counted, again, strict=True):
            counts.instructions |= anew.instructions
            counts.complaints += anew.complaints
    print(tables.of_instructions(counted))
    lines = check.exceeded(counted)
    for text in lines:
        print(f"check: {text}", file=sys.stderr)
    return 1 if lines else 0


def _audit(options: argparse.Namespace) -> int:
    took = audit.measure(1_000 if options.quick else audit.LINES)
    print(audit.text_of(took))
    return 1 if audit.is_slow(took) else 0


def _keep(options: argparse.Namespace) -> int:
    files = [Path(name) for name in options.parts[1:]]
    page.keep(files)
    print(f"wrote {page.PAGE}")
    return 0


def _measure(parts: list[str], options: argparse.Namespace) -> int:
    """Run the parts, one after the other; one that fails is named, and the others go on."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise UnavailableError(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}, check, audit and keep")
    chosen = options.modes + [peer for peer in modes.PEERS if options.peers and peer not in options.modes]
    if "bare" not in chosen:
        chosen.insert(0, "bare")
    results = _begin(options)
    began = time.monotonic()
    failed = False
    for number, part in enumerate(parts, 1):
        if part in results:
            _say(f"[{number}/{len(parts)}] {part}: taken from {options.json}")
        else:
            _say(f"[{number}/{len(parts)}] {part}, after {time.monotonic() - began:.0f} s")
            failed |= not _one(part, results, chosen, options)
        if part in results:
            print(page.text_of(part, results) + "\n", flush=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    _say(f"{options.json} is complete, after {time.monotonic() - began:.0f} s")
    for part, reason in results["cannot"].items():
        _say(f"{part} could not be measured: {reason}")
    return 1 if failed else 2 if results["cannot"] else 0


def _begin(options: argparse.Namespace) -> dict[str, Any]:
    """What a run is told apart by; with ``--resume``, the parts that the same set-up has measured already."""
    same = {"environment": tables.environment(), "sqlalchemy": version("sqlalchemy"), "names": tables.names()}
    same["sizes"] = {name: getattr(options, name) for name in ("modes", "peers", "workloads", "full", "quick")}
    if options.resume and options.json.exists():
        earlier: dict[str, Any] = json.loads(options.json.read_text())
        if all(earlier.get(name) == value for name, value in same.items()):
            return earlier | {"cannot": {}}
        _say(f"{options.json} is of another set-up; everything is measured anew")
    return same | {"cannot": {}}


def _one(part: str, results: dict[str, Any], chosen: list[str], options: argparse.Namespace) -> bool:
    """Measure one part into the results; False where it failed, and not for want of something."""
    try:
        # as it comes back from the file, so that what is printed is what the page will show
        results[part] = json.loads(json.dumps(_PART[part](chosen, options)))
        if part == "growth":
            results["pictures"] = _draw(results[part], options)
        return True
    except UnavailableError as error:
        results["cannot"][part] = str(error)
        return True
    except Exception as error:  # of one part; hours of the others are not lost with it
        traceback.print_exc()
        results["cannot"][part] = f"{type(error).__name__}: {error}"
        return False


def _instructions(chosen: list[str], options: argparse.Namespace) -> Any:
    size: dict[str, Any] = (
        {"samples": 1, "layouts": 1, "scale": 0.02} if options.quick else {"layouts": options.layouts or 3}
    )
    counted = instructions.measure(chosen, options.workloads, jobs=options.jobs, say=_say, **size)
    return [asdict(counts) for counts in counted]


def _bytecodes(chosen: list[str], options: argparse.Namespace) -> Any:
    return bytecodes.measure(options.jobs)


def _wall(chosen: list[str], options: argparse.Namespace) -> Any:
    rounds = 2 if options.quick else options.rounds
    return [asdict(wall.measure(kind, chosen, options.workloads, rounds, _say)) for kind in options.databases]


def _examples(chosen: list[str], options: argparse.Namespace) -> Any:
    ours = [mode for mode in chosen if mode not in modes.PEERS]
    counted = examples.measure(
        ours, examples.fetch(say=_say), scale=0.1 if options.quick else 1.0, jobs=options.jobs, say=_say
    )
    return [asdict(counts) for counts in counted]


def _memory(chosen: list[str], options: argparse.Namespace) -> Any:
    return memory.measure(options.full, options.quick, options.jobs)


def _growth(chosen: list[str], options: argparse.Namespace) -> Any:
    return growth.measure(options.full, options.quick, _say)


def _draw(found: Any, options: argparse.Namespace) -> bool:
    try:
        for path in growth.draw(found, options.docs):
            _say(f"drew {path}")
    except ImportError:
        _say("no pictures: matplotlib is not installed (extra `bench`)")
        return False
    return True


def _startup(chosen: list[str], options: argparse.Namespace) -> Any:
    return startup.measure(1 if options.quick else 7)


def _suite(chosen: list[str], options: argparse.Namespace) -> Any:
    return suite.measure(1 if options.quick else 3, _say)


def _telemetry(chosen: list[str], options: argparse.Namespace) -> Any:
    size: dict[str, Any] = {"rounds": 2, "layouts": 1, "scale": 0.05} if options.quick else {}
    size = {"rounds": options.rounds, "layouts": options.layouts or 3} | size
    return asdict(telemetry.measure(jobs=options.jobs, say=_say, **size))


_PART = {
    "instructions": _instructions,
    "bytecodes": _bytecodes,
    "examples": _examples,
    "wall": _wall,
    "memory": _memory,
    "growth": _growth,
    "startup": _startup,
    "suite": _suite,
    "telemetry": _telemetry,
}

if __name__ == "__main__":
    raise SystemExit(main())
