"""The benchmarks run: every workload in every mode, and every table is printed. No figure is asserted."""

from __future__ import annotations

import contextlib
import json
import tarfile
from pathlib import Path

import pytest
from sqlalchemy import URL

from benchmarks import (
    bytecodes,
    check,
    children,
    examples,
    instructions,
    memory,
    modes,
    page,
    sdk,
    startup,
    tables,
    telemetry,
    wall,
    workloads,
)
from benchmarks.__main__ import main
from benchmarks.databases import Database, UnavailableError, url_of
from benchmarks.instructions import Counts
from benchmarks.modes import OURS
from benchmarks.wall import Times

pytestmark = pytest.mark.slow
STARTUP = {"import sessionwatch": 5.0, "import sessionwatch (least)": 4.0}
PROFILER = """
class Profiler:
    tests, _setup, _setup_once = [], None, None
"""
SUITE = """
from . import Profiler
rows = {}
def set_up(url, echo, num):
    assert url.startswith("sqlite:///") and not echo
    rows["one"] = num
def test_one(n):
    assert rows["one"] == n
def test_broken(n):
    rows["three"]
Profiler._setup = set_up
Profiler.tests += [test_one, test_broken]
"""


def test_bytecodes_are_told_function_by_function() -> None:
    """Of each workload; the hook that sees a session close is there by its name."""
    found = bytecodes.measure()
    assert list(found) == list(bytecodes.NAMES)
    assert all(counted["bare"] > 0 for counted in found.values())
    added = found["open+close"]["added"]
    assert all(added[mode]["hooks/closing.py _close_impl"] > 0 for mode in bytecodes.MODES)


def test_every_workload_runs_in_every_mode_without_a_finding() -> None:
    """The workloads are right use: in no mode is there a finding, an internal error or a failure."""
    counted = instructions.measure(OURS, samples=1, layouts=1, scale=0.05, valgrind=False)
    assert [(counts.mode, counts.cannot, counts.failed, counts.complaints) for counts in counted] == [
        (mode, None, {}, []) for mode in OURS
    ]
    names = {workload.name for workload in workloads.ALL}
    assert all(set(counts.instructions) == names for counts in counted)
    assert "all rules off" in tables.of_instructions(counted)


@pytest.mark.postgresql
def test_writes_are_timed_on_a_server(postgres_database: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that the server gives do not meet those of the rows that are there."""
    monkeypatch.setenv("SESSIONWATCH_TEST_POSTGRES_URL", postgres_database.render_as_string(hide_password=False))
    times = wall.measure("psycopg", ["bare"], ["flush", "bulk"], 1)
    assert (set(times.bare), times.cannot) == ({"flush", "bulk"}, {})


@pytest.mark.postgresql
def test_requests_run_in_every_mode_without_a_finding(postgres_database: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application of the telemetry part is right use too, with an SDK and beside its instrumentation."""
    monkeypatch.setenv("SESSIONWATCH_TEST_POSTGRES_URL", postgres_database.render_as_string(hide_password=False))
    with url_of(telemetry.DATABASE) as url:
        counted = instructions.measure(
            [*telemetry.MODES, sdk.SPAN],
            [workload.name for workload in workloads.REQUESTS],
            samples=1,
            layouts=1,
            scale=0.02,
            valgrind=False,
            extra=["--database", url, "--sdk", sdk.SAMPLED],
        )
    assert [(counts.cannot, counts.failed, counts.complaints) for counts in counted] == [(None, {}, [])] * 4
    assert all(set(counts.instructions) == {"def", "async def"} for counts in counted)
    found = telemetry.Requests({sdk.SAMPLED: Times("psycopg", "cpu")}, {sdk.SAMPLED: counted})
    assert "| instructions on psycopg, SDK, sampled, ratio to bare | def | async def |" in tables.of_requests(found)
    assert "| one span of the SDK, and nothing else |" in tables.of_requests(found)


def test_what_a_request_costs_is_told_as_a_share_of_the_instrumentation() -> None:
    """Two percent of bare are a tenth of twenty percent, for instructions and for times with their quartiles."""
    times = Times("psycopg", "cpu", {"telemetry": {"def": (1.02, 1.0, 1.1)}, "otel": {"def": (1.2, 1.1, 1.3)}})
    assert telemetry.shares(times.ratio) == {"def": pytest.approx(0.1)}
    assert telemetry.shares({"telemetry": {"def": 1.02}, "otel": {"def": 1.2}}) == {"def": pytest.approx(0.1)}
    assert telemetry.shares({"telemetry": {"def": 1.02}}) == {}


def test_a_peer_without_listeners_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that starts and listens to nothing would look as if it cost nothing."""
    monkeypatch.setitem(modes.PEERS, "idle", lambda db: contextlib.nullcontext)
    with pytest.raises(UnavailableError, match="not on the sync engine"):
        modes.start("idle", Database())


def test_wall_time_names_what_cannot_run() -> None:
    """A mode that does not start is a line below the table, and the others are measured."""
    times = wall.measure("sqlite", ("bare", "log", "no-such-mode"), ("open+close",), rounds=2)
    assert set(times.ratio) == {"log"}
    assert "cannot run" in tables.of_times(times)


def test_the_small_parts_print_their_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Memory and start-up write Markdown to stdout and all figures to the JSON file."""
    file = tmp_path / "figures.json"
    assert main(["memory", "startup", "--quick", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "| a closed session's record |" in printed
    assert "| import sessionwatch |" in printed
    results = json.loads(file.read_text())
    assert set(results) >= {"environment", "names", "memory", "startup"}
    assert results["cannot"] == {}
    assert page.text_of("startup", results) in printed


def test_a_part_that_fails_loses_nothing_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The failure is named, the next part is measured, and the exit status says that something is missing."""
    monkeypatch.setattr(memory, "measure", lambda *_: 1 / 0)
    monkeypatch.setattr(startup, "measure", lambda *_: STARTUP)
    file = tmp_path / "figures.json"
    assert main(["memory", "startup", "--json", str(file)]) == 1
    results = json.loads(file.read_text())
    assert results["cannot"] == {"memory": "ZeroDivisionError: division by zero"}
    assert results["startup"] == STARTUP
    assert "memory could not be measured: ZeroDivisionError" in capsys.readouterr().err


def test_what_is_not_installed_is_named_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without valgrind, start-up is measured all the same, and the status is 2."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(startup, "measure", lambda *_: STARTUP)
    file = tmp_path / "figures.json"
    assert main(["instructions", "startup", "--json", str(file)]) == 2
    results = json.loads(file.read_text())
    assert "valgrind is not installed" in results["cannot"]["instructions"]
    assert results["startup"] == STARTUP


def test_a_run_is_resumed_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--resume`` keeps a part that is in the file, and measures what is not; other sizes are another run."""
    asked: list[bool] = []
    monkeypatch.setattr(startup, "measure", lambda *_: asked.append(True) or STARTUP)
    file = tmp_path / "figures.json"
    for arguments in (["startup"], ["startup", "--resume"], ["startup", "--resume", "--quick"], ["startup"]):
        assert main([*arguments, "--json", str(file)]) == 0
    assert len(asked) == 3


def test_sqlalchemys_examples_run_bare_and_watched(tmp_path: Path) -> None:
    """Suites made like SQLAlchemy's own: each example is a row, and one that fails is named."""
    suites = tmp_path / examples.PACKAGE
    suites.mkdir()
    (suites / "__init__.py").write_text(PROFILER)
    (suites / "reads.py").write_text(SUITE)
    counted = examples.measure(("bare", "log"), tmp_path, scale=0.1, valgrind=False)
    assert [(counts.mode, counts.cannot, set(counts.instructions)) for counts in counted] == [
        (mode, None, {"reads.one"}) for mode in ("bare", "log")
    ]
    assert {name: why for counts in counted for name, why in counts.failed.items()} == {
        "reads.broken": "KeyError: 'three'"
    }
    assert "| reads.one | 0.0 | 1.000 |" in tables.of_examples(counted)


def test_only_the_examples_are_taken_from_the_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download is unpacked once; the rest of the archive stays out."""
    made: list[str] = []

    def download(wanted: str, folder: Path, say: object) -> Path:
        made.append(wanted)
        for name in ("examples/performance/reads.py", "lib/sqlalchemy/x.py"):
            path = folder / "sqlalchemy-9.9" / name
            path.parent.mkdir(parents=True)
            path.touch()
        with tarfile.open(folder / "sqlalchemy-9.9.tar.gz", "w:gz") as tar:
            tar.add(folder / "sqlalchemy-9.9", "sqlalchemy-9.9")
        return folder / "sqlalchemy-9.9.tar.gz"

    monkeypatch.setenv("SESSIONWATCH_CACHE", str(tmp_path))
    monkeypatch.setattr(examples, "_download", download)
    for _ in range(2):
        folder = examples.fetch("9.9")
    assert made == ["9.9"]
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.py")] == [
        "examples-9.9/performance/reads.py"
    ]
    assert folder == tmp_path / "examples-9.9"


def test_an_exceeded_bound_is_named() -> None:
    """The check names the mode, the workload, the ratio and the bound."""
    bare = Counts("bare", {"read": 100.0, "load": 100.0})
    counted = [bare, Counts("log", {"read": 100.0, "load": 150.0}, complaints=["finding of lost-writes"])]
    assert check.exceeded(counted) == [
        "log: finding of lost-writes",
        "log, load: 1.500 times the instructions of bare, at most 1.02 are allowed",
    ]


@pytest.mark.parametrize(("in_three", "status"), [(101.0, 0), (150.0, 1)])
def test_what_is_above_its_bound_is_counted_in_three_layouts(
    in_three: float, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their mean is what counts; what is inside of its bound is not counted again."""
    asked = []

    def measure(modes: object, names: list[str], *, layouts: int, **_: object) -> list[Counts]:
        asked.append((list(names), layouts))
        load = 150.0 if layouts == 1 else in_three
        counted = [Counts("bare", {"read": 100.0, "load": 100.0}), Counts("log", {"read": 100.0, "load": load})]
        return [
            Counts(one.mode, {name: one.instructions[name] for name in names}, dict.fromkeys(names, 0.0))
            for one in counted
        ]

    monkeypatch.setattr(instructions, "measure", measure)
    monkeypatch.setattr(check, "LINE", ".".join(__import__("sqlalchemy").__version__.split(".")[:2]))
    monkeypatch.setattr(check, "COUNTED", ("read", "load"))
    assert main(["check"]) == status
    assert asked == [(["read", "load"], 1), (["load"], 3)]
    assert ("check: log, load" in capsys.readouterr().err) == bool(status)


def test_every_workload_has_a_bound_in_every_mode() -> None:
    """The table of bounds has a column for each workload."""
    assert [workload.name for workload in workloads.ALL] == list(check.WORKLOADS)
    assert all(len(bounds) == len(check.WORKLOADS) for bounds in check.BOUNDS.values())


def test_without_valgrind_the_check_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where valgrind is missing, the status is 2 and the reason is named."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(check, "LINE", ".".join(__import__("sqlalchemy").__version__.split(".")[:2]))
    assert main(["check"]) == 2
    assert "valgrind is not installed" in capsys.readouterr().err


def test_the_environment_of_a_child_is_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What configures sessionwatch, Python or a peer does not reach the processes that measure."""
    for name in ("SESSIONWATCH_MODE", "PYTHONSTARTUP", "OTEL_SDK_DISABLED"):
        monkeypatch.setenv(name, "x")
    environment = children.environment()
    assert environment["PYTHONHASHSEED"] == "0"
    assert not {"SESSIONWATCH_MODE", "PYTHONSTARTUP", "OTEL_SDK_DISABLED"} & set(environment)
