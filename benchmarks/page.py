"""The page of a release: ``docs/benchmarks.md`` is the rendering of ``benchmarks/results/*.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from . import aims, children, suite, tables
from .databases import UnavailableError
from .growth import AXES
from .instructions import Counts
from .telemetry import Requests
from .wall import Times

RESULTS = children.ROOT / "benchmarks" / "results"
PAGE = children.ROOT / "docs" / "benchmarks.md"

HEAD = """# What sessionwatch costs

This page is written by `python -m benchmarks keep` from the figures in `benchmarks/results/`. What a number means,
how it is measured and what stands above the aims: [benchmarks/README.md](../benchmarks/README.md).

The figures are those of the commit that was measured, not of every later one: `git log benchmarks/results` says when
that was, `python -m benchmarks check` compares the instructions of today with their bounds, and
`python -m benchmarks` measures everything anew.
"""


def line_of(results: dict[str, Any]) -> str:
    """The SQLAlchemy line of a run: ``2.1``."""
    return ".".join(str(results["sqlalchemy"]).split(".")[:2])


def keep(files: Iterable[Path], folder: Path = RESULTS, page: Path = PAGE) -> None:
    """Take the figures of these runs as the release's, one a SQLAlchemy line, and write the page."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        try:
            results = json.loads(file.read_text())
            target = folder / f"{line_of(results)}.json"
        except (OSError, ValueError, KeyError) as error:
            raise UnavailableError(f"{file} is not the JSON of a run: {error!r}") from error
        target.write_text(json.dumps(results, indent=1) + "\n")
    page.write_text(render(kept(folder)))


def kept(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The figures that are kept, the newest SQLAlchemy line first."""
    found = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    return sorted(found, key=lambda results: [int(part) for part in line_of(results).split(".")], reverse=True)


def render(runs: Iterable[dict[str, Any]]) -> str:
    """The page: a chapter for each run."""
    return "\n".join([HEAD, *(_chapter(results) for results in runs)])


def _chapter(results: dict[str, Any]) -> str:
    parts = [f"## SQLAlchemy {line_of(results)}", results["environment"]]
    for name, (title, text) in SECTIONS.items():
        if name in results:
            parts += [f"### {title}", text(results[name], results).strip()]
        elif name in results.get("cannot", {}):
            parts += [f"### {title}", f"Not measured: {results['cannot'][name]}"]
    return "\n\n".join(parts) + "\n"


def text_of(part: str, results: dict[str, Any]) -> str:
    """The tables of one part of a run."""
    return SECTIONS[part][1](results[part], results)


def _instructions(found: Any, results: dict[str, Any]) -> str:
    counted = [Counts(**counts) for counts in found]
    return tables.of_instructions(counted, names_of=results["names"], aimed=line_of(results) == aims.LINE)


def _wall(found: Any, results: dict[str, Any]) -> str:
    return "\n\n".join(tables.of_times(Times(**times), names_of=results["names"]) for times in found)


def _examples(found: Any, results: dict[str, Any]) -> str:
    return tables.of_examples([Counts(**counts) for counts in found], results["names"])


def _growth(found: Any, results: dict[str, Any]) -> str:
    pictures = (
        "".join(f"\n\n![{AXES[axis][1]}]({axis_file(axis)})" for axis in found) if results.get("pictures") else ""
    )
    return tables.of_growth(found) + pictures


def axis_file(axis: str) -> str:
    """The name of an axis's picture."""
    return f"growth-{axis}.png"


def _telemetry(found: Any, results: dict[str, Any]) -> str:
    cpu = {kind: Times(**times) for kind, times in found["cpu"].items()}
    counted = {kind: [Counts(**counts) for counts in each] for kind, each in found["instructions"].items()}
    return tables.of_requests(Requests(cpu, counted, found["cannot"]), results["names"])


Text = Callable[[Any, dict[str, Any]], str]
SECTIONS: dict[str, tuple[str, Text]] = {
    "instructions": ("Instructions", _instructions),
    "bytecodes": ("Where they go", lambda found, results: tables.of_bytecodes(found)),
    "examples": ("SQLAlchemy's own performance examples", _examples),
    "wall": ("Wall time", _wall),
    "memory": ("Memory", lambda found, results: tables.of_memory(found)),
    "growth": ("Growth", _growth),
    "startup": ("Start-up", lambda found, results: tables.of_startup(found)),
    "suite": ("The pytest plugin in other people's suites", lambda found, results: suite.text(found)),
    "telemetry": ("Requests to a FastAPI application", _telemetry),
}
