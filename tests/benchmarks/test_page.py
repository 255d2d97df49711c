"""The page of a release is the rendering of the figures that are kept, and of nothing else."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import growth, page
from benchmarks.databases import UnavailableError
from benchmarks.instructions import Counts
from benchmarks.telemetry import Requests
from benchmarks.wall import Times

COUNTED = [
    Counts("bare", {"read": 1000.0, "short": 2000.0}, {"read": 0.0, "short": 0.01}),
    Counts("off", {"read": 1000.0, "short": 2000.0}),
    Counts("telemetry", {"read": 1000.0, "short": 2080.0}, complaints=["finding of lost-writes"] * 2),
    Counts("queryspy", cannot="ImportError: no module"),
]
TIMES = Times("psycopg", "wall", {"log": {"read": (1.25, 1.2, 1.3)}}, {"read": 10.0}, {"logfire": "not there"})
RUN: dict[str, Any] = {
    "environment": "sqlalchemy 2.1.9, sessionwatch 1.0, Python 3.11.7, x86_64, 2 x AMD EPYC",
    "sqlalchemy": "2.1.9",
    "names": {"queryspy": "queryspy 0.6.0", "otel": "opentelemetry-instrumentation-sqlalchemy 0.65b0"},
    "pictures": True,
    "cannot": {"telemetry": "no server"},
    "instructions": [asdict(counts) for counts in COUNTED],
    "bytecodes": {"short": {"bare": 1000.0, "added": {"log": {"one.py f": 40.0, "two.py g": 2.0}, "strict": {}}}},
    "examples": [asdict(Counts("bare", {"suite.one": 1e6})), asdict(Counts("log", {"suite.one": 1.1e6}))],
    "wall": [asdict(TIMES)],
    "memory": {"bytes": {"a live session": {"log": 458.0}}, "growth": {}, "growth_over": {}},
    "growth": {"objects": {"bare": {"10": 5.0}, "log": {"10": 6.0}}},
    "startup": {"install(), log, 500 classes": 4.0, "install(), log, 500 classes (least)": 3.0},
}


def test_the_page_is_the_rendering_of_the_figures_that_are_kept() -> None:
    """``docs/benchmarks.md`` was written by ``keep``; without figures there is no page."""
    runs = page.kept()
    assert page.PAGE.exists() == bool(runs)
    if runs:
        assert page.PAGE.read_text() == page.render(runs)


def test_the_figures_that_are_kept_are_whole() -> None:
    """A quick run, or one without a part, is not what a release is told by."""
    for results in page.kept():
        assert not results["sizes"]["quick"]
        assert {"instructions", "examples", "wall", "startup"} <= set(results)
        if results.get("pictures"):
            assert all((page.PAGE.parent / page.axis_file(axis)).exists() for axis in growth.AXES)


@pytest.mark.parametrize(
    "line",
    [
        "## SQLAlchemy 2.1",
        RUN["environment"],
        "| bare, 1000 instructions | 1 | 2 |",
        "| all rules off | 1.000 | 1.000 |",
        "| telemetry | 1.000 | 1.040 |",
        "| telemetry, aim | ≤ 1.000 | ≤ 1.030 |",
        "- queryspy 0.6.0: cannot run: ImportError: no module",
        "- telemetry: finding of lost-writes (2 times)",
        "| short: bytecodes over the bare program's 1,000 | log | strict |",
        "| `one.py f` | 40 | 0 |",
        "| all others | 2 | 0 |",
        "| together | 42 | 0 |",
        "| suite.one | 1,000.0 | 1.100 |",
        "| log | 1.25 (1.20-1.30) |",
        "- logfire: cannot run: not there",
        "| a live session | 458 | ≤ 1,024 |",
        "![objects in the session](growth-objects.png)",
        "| install(), log, 500 classes | 4.0 | 3.0 | ≤ 5 |",
        "Not measured: no server",
    ],
)
def test_the_page_tells(line: str) -> None:
    """Each part, what was aimed at, and what could not run with its reason."""
    assert line in page.render([RUN]).splitlines()


def test_aims_are_those_of_one_line() -> None:
    """The ratios that were aimed at are of SQLAlchemy 2.1, so the tables of 2.0 do not show them."""
    assert "telemetry, aim" not in page.render([RUN | {"sqlalchemy": "2.0.58"}])


def test_figures_are_kept_by_line_and_the_newest_is_first(tmp_path: Path) -> None:
    """A later run of the same line takes the place of the earlier one."""
    for name, results in {"a": RUN, "b": RUN | {"sqlalchemy": "2.0.58"}, "c": RUN | {"cannot": {}}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(results))
    files = [tmp_path / f"{name}.json" for name in "abc"]
    page.keep(files, tmp_path / "results", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["2.0.json", "2.1.json"]
    assert text.count("Not measured: no server") == 1
    assert text.index("## SQLAlchemy 2.1") < text.index("## SQLAlchemy 2.0")
    assert text == page.render(page.kept(tmp_path / "results"))


def test_another_figure_is_another_page() -> None:
    """Nothing on the page is rounded away that is in its tables, so an edited page does not pass for the figures."""
    other = copy.deepcopy(RUN)
    other["instructions"][2]["instructions"]["short"] = 2090.0
    assert page.render([other]) != page.render([RUN])


def test_what_is_not_a_run_is_not_kept(tmp_path: Path) -> None:
    """A file that is missing, or is something else, is named, and the page stays as it is."""
    (tmp_path / "other.json").write_text("{}")
    for name in ("other.json", "missing.json"):
        with pytest.raises(UnavailableError, match=name):
            page.keep([tmp_path / name], tmp_path / "results", tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()


def test_requests_come_back_from_the_file_as_they_were() -> None:
    """Processor time and instructions of the telemetry part have their tables on the page."""
    times = Times(
        "psycopg", "cpu", {"telemetry": {"def": (1.02, 1.0, 1.1)}, "otel": {"def": (1.2, 1.1, 1.3)}}, {"def": 9}
    )
    found = json.loads(json.dumps(asdict(Requests({"no SDK": times}))))
    text = page.render([RUN | {"telemetry": found}])
    assert "| telemetry | 1.020 (1.000-1.100) |" in text
    assert "of what opentelemetry-instrumentation-sqlalchemy 0.65b0 adds: def 10 %" in text
