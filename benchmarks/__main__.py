"""``python -m benchmarks``: the command line."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import check, children, growth, instructions, memory, modes, startup, tables, telemetry, wall, workloads
from .databases import DRIVERS, UnavailableError

PARTS = ("instructions", "wall", "memory", "growth", "startup", "telemetry")

DESCRIPTION = """What sessionwatch costs, beside a bare SQLAlchemy. Tables go to stdout (Markdown) and to a file (JSON).

parts:
  instructions  ratio of instructions to bare, counted by valgrind: repeatable to about 1.5 %, whatever else
                the machine does; about three minutes on two cores
  wall          ratio of wall time to bare, in slices that take turns: medians and quartiles; a few minutes
                a database; depends on what else the machine does
  memory        bytes a session, a closed record, a finding; resident memory over many sessions and objects
  growth        the cost of one operation with 10 and with 100,000 objects, sessions, threads, tasks; pictures
  startup       milliseconds of the import, and of install() with 500 mapped classes
  telemetry     processor time and instructions a request of a FastAPI application on PostgreSQL: bare, with
                sessionwatch, with OpenTelemetry's instrumentation of SQLAlchemy; needs extra `bench`; long
  check         one sample of the instruction table against the bounds in benchmarks/check.py; exit status 1
                above one
"""

EPILOG = """examples:
  python -m benchmarks                                         # everything but check; half an hour
  python -m benchmarks instructions                            # the table of the modes
  python -m benchmarks instructions --workloads open+close --layouts 1   # while you change a hook; half a minute
  python -m benchmarks instructions wall --peers               # beside the other tools that are installed
  python -m benchmarks wall --databases psycopg,asyncpg
  python -m benchmarks memory growth --full                    # a million sessions and objects; long
  python -m benchmarks check                                   # for CI; says so where valgrind is not there

The SQLAlchemy line is the environment's; `nox -s benchmarks` measures both lines, with the peers.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that were asked for; the exit status is 1 where a bound is exceeded."""
    options = _parser().parse_args(arguments)
    parts = options.parts or list(PARTS)
    print(f"{tables.environment()}\n", flush=True)
    try:
        if "check" in parts:
            return _check(options)
        return _measure(parts, options)
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
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="instructions: processes at a time (2)")
    parser.add_argument("--full", action="store_true", help="memory, growth: up to a million")
    parser.add_argument(
        "--quick", action="store_true", help="everything very small: whether it runs, not what it costs"
    )
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
    print(tables.of_instructions(counted))
    lines = check.exceeded(counted)
    for text in lines:
        print(f"check: {text}", file=sys.stderr)
    return 1 if lines else 0


def _measure(parts: list[str], options: argparse.Namespace) -> int:
    chosen = options.modes + [peer for peer in modes.PEERS if options.peers and peer not in options.modes]
    if "bare" not in chosen:
        chosen.insert(0, "bare")
    results: dict[str, Any] = {"environment": tables.environment()}
    for part in parts:
        if part not in PARTS:
            raise UnavailableError(f"there is no part {part!r}; there are {', '.join(PARTS)} and check")
        results[part], text = _PART[part](chosen, options)
        print(text + "\n", flush=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def _instructions(chosen: list[str], options: argparse.Namespace) -> tuple[Any, str]:
    size: dict[str, Any] = (
        {"samples": 1, "layouts": 1, "scale": 0.02} if options.quick else {"layouts": options.layouts or 3}
    )
    counted = instructions.measure(chosen, options.workloads, jobs=options.jobs, say=_say, **size)
    return [asdict(counts) for counts in counted], tables.of_instructions(counted)


def _wall(chosen: list[str], options: argparse.Namespace) -> tuple[Any, str]:
    rounds = 2 if options.quick else options.rounds
    found = [wall.measure(kind, chosen, options.workloads, rounds, _say) for kind in options.databases]
    return [asdict(times) for times in found], "\n\n".join(tables.of_times(times) for times in found)


def _memory(chosen: list[str], options: argparse.Namespace) -> tuple[Any, str]:
    found = memory.measure(options.full, options.quick)
    return found, tables.of_memory(found)


def _growth(chosen: list[str], options: argparse.Namespace) -> tuple[Any, str]:
    found = growth.measure(options.full, options.quick, _say)
    text = tables.of_growth(found)
    try:
        text += "".join(f"\n\n![{path.stem}]({path})" for path in growth.draw(found, options.docs))
    except ImportError:
        text += "\n\n- no pictures: matplotlib is not installed (extra `bench`)"
    return found, text


def _startup(chosen: list[str], options: argparse.Namespace) -> tuple[Any, str]:
    found = startup.measure(2 if options.quick else 9)
    return found, tables.of_startup(found)


def _telemetry(chosen: list[str], options: argparse.Namespace) -> tuple[Any, str]:
    size: dict[str, Any] = {"rounds": 2, "layouts": 1, "scale": 0.05} if options.quick else {}
    size = {"rounds": options.rounds, "layouts": options.layouts} | size
    found = telemetry.measure(jobs=options.jobs, say=_say, **size)
    return asdict(found), tables.of_requests(found)


_PART = {
    "instructions": _instructions,
    "wall": _wall,
    "memory": _memory,
    "growth": _growth,
    "startup": _startup,
    "telemetry": _telemetry,
}

if __name__ == "__main__":
    raise SystemExit(main())
