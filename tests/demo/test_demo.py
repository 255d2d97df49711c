"""`sessionwatch demo`: the faulty service is reported at its marks, the repaired one not; bad databases are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, inspect

from sessionwatch import demo

ROOT = Path(__file__).resolve().parents[2]
SIX = {"detached-access", "detached-touch", "detached-write", "lost-writes", "session-leak", "use-after-close"}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """An empty database for the service."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return URL.create("sqlite", database=str(tmp_path / "service.db"))


def environment(url: URL | None = None) -> dict[str, str]:
    """The environment of a program that finds sessionwatch, and the service's database in it."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SESSIONWATCH_")}
    variables["PYTHONPATH"] = str(ROOT)
    if url is not None:
        asynchronous = url.set(drivername="sqlite+aiosqlite") if url.drivername == "sqlite" else url
        variables["DATABASE_URL"] = url.render_as_string(hide_password=False)
        variables["ASYNC_DATABASE_URL"] = asynchronous.render_as_string(hide_password=False)
    return variables


def service(half: str, url: URL, *under: str) -> subprocess.CompletedProcess[str]:
    """Run one half of the service, bare or under ``python -m sessionwatch ARGUMENTS``."""
    return subprocess.run(
        [sys.executable, *under, "-m", f"{half}.main"],
        cwd=demo.FOLDER,
        env=environment(url),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def command(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``sessionwatch demo`` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "sessionwatch", "demo", *arguments],
        cwd=cwd,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def found(path: Path) -> list[demo.Place]:
    """The different findings of a JSON Lines file."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted({demo.Place(line["rule"], line["path"], line["line"]) for line in lines})


def test_each_of_the_six_rules_has_one_marked_line_and_asyncio_has_a_seventh() -> None:
    """The service shows each rule once, and one of them once more under asyncio."""
    sync, both = demo.marked("faulty", with_asyncio=False), demo.marked("faulty", with_asyncio=True)
    assert Counter(place.rule for place in sync) == dict.fromkeys(SIX, 1)
    assert [place.rule for place in both - sync] == ["lost-writes"]
    assert demo.marked("repaired", with_asyncio=True) == set()


def test_the_faulty_service_is_reported_at_the_marked_lines_and_nowhere_else(url: URL, tmp_path: Path) -> None:
    """Each marked line gets exactly one finding of its rule."""
    output = tmp_path / "findings.jsonl"
    ended = service("faulty", url, "-m", "sessionwatch", "run", "--format", "json", "--output", str(output))
    assert ended.returncode == 0, ended.stderr
    assert found(output) == sorted(demo.marked("faulty", with_asyncio=True))


def test_the_repaired_service_has_no_finding(url: URL, tmp_path: Path) -> None:
    """The same jobs done rightly are silent, also where a finding would set the exit status."""
    output = tmp_path / "findings.jsonl"
    ended = service("repaired", url, "-m", "sessionwatch", "run", "--fail", "--format", "json", "--output", str(output))
    assert ended.returncode == 0, ended.stderr
    assert found(output) == []


@pytest.mark.parametrize("half", ["faulty", "repaired"])
def test_the_service_says_the_same_bare_and_watched(half: str, url: URL) -> None:
    """The watch changes neither what the service prints nor its exit status."""
    bare = service(half, url)
    watched = service(half, url, "-m", "sessionwatch", "run")
    assert (watched.stdout, watched.returncode) == (bare.stdout, bare.returncode)
    assert bare.stdout.count("201 created") == 3


def test_the_demo_shows_the_loss_the_report_and_the_repair() -> None:
    """With no argument it runs both halves on SQLite, says what is in the tables, and succeeds."""
    ended = command()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    parts = ["201 created A-1001", "lost-writes", "0 of 3 new orders", "repaired", "3 of 3 new orders", "Next:"]
    positions = [ended.stdout.find(part) for part in parts]
    assert -1 not in positions, ended.stdout
    assert positions == sorted(positions), ended.stdout


def test_the_demo_makes_a_page(tmp_path: Path) -> None:
    """The faulty half's report is a page too, with the picture; the output says where."""
    ended = command(TMPDIR=str(tmp_path))
    line = next(line for line in ended.stdout.splitlines() if line.startswith("The same as a page"))
    page = Path(line.rpartition(": ")[2]).read_text()
    assert '"picture":{' in page
    assert "faulty/orders.py" in page


def test_the_demo_succeeds_on_another_database_and_leaves_no_table_in_it(url: URL) -> None:
    """Its tables are dropped at the end."""
    ended = command("--database-url", url.render_as_string(hide_password=False))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert tables(url) == []


def test_keep_leaves_the_tables_of_the_repaired_service(url: URL) -> None:
    """With --keep the tables stay and the output says so."""
    ended = command("--keep", "--database-url", url.render_as_string(hide_password=False))
    assert "Kept: the tables sessionwatch_demo_*" in ended.stdout
    assert tables(url) == [f"sessionwatch_demo_{name}" for name in ("customers", "order_lines", "orders")]


def tables(url: URL) -> list[str]:
    """Names of the tables in a database."""
    engine = create_engine(url)
    try:
        return sorted(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_keep_leaves_the_sqlite_files_where_it_says(tmp_path: Path) -> None:
    """With --keep and SQLite both files stay in the folder that is named; without it the folder is removed."""
    kept = command("--keep", TMPDIR=str(tmp_path))
    folder = Path(next(line for line in kept.stdout.splitlines() if line.startswith("Kept: ")).removeprefix("Kept: "))
    assert {path.name for path in folder.glob("*.db")} == {"faulty.db", "repaired.db"}
    shutil.rmtree(folder)
    command(TMPDIR=str(tmp_path))
    assert list(tmp_path.glob("sessionwatch-demo-*")) == []


def test_the_demo_runs_from_any_folder_with_the_users_own_settings_left_out(tmp_path: Path) -> None:
    """A relative SQLite path is the caller's; configuration of the caller's project does not reach the service."""
    (tmp_path / "pyproject.toml").write_text('[tool.sessionwatch.rules]\nlost-writes = "off"\n', encoding="utf-8")
    ended = command(
        "--keep", "--database-url", "sqlite:///mine.db", cwd=tmp_path, SESSIONWATCH_RULES="session-leak=off"
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert tables(URL.create("sqlite", database=str(tmp_path / "mine.db"))) != []


def test_the_demo_succeeds_without_an_asyncio_driver_and_says_what_it_skips(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing but SQLAlchemy is needed: the asyncio part is left out in one line."""
    monkeypatch.setitem(sys.modules, "aiosqlite", None)  # its import fails
    assert demo.main([]) == 0
    output = capfd.readouterr().out
    assert "The asyncio part is skipped" in output
    assert "/pack" not in output


def test_a_fault_that_is_not_found_makes_the_demo_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """If the service is not as its marks say, the demo names the difference and ends with 1."""
    shutil.copytree(demo.FOLDER, tmp_path / "demo")
    changed = tmp_path / "demo" / "faulty" / "reports.py"
    source = changed.read_text(encoding="utf-8")
    changed.write_text(source.replace('    return f"200 {units}', '    session.close()\n    return f"200 {units}'))
    monkeypatch.setattr(demo, "FOLDER", tmp_path / "demo")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert demo.main([]) == 1
    assert "not found: session-leak at faulty/reports.py:29" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("orders", "that is no database URL"),
        ("postgresql://me:secret@host:port/orders", "that is no database URL"),
        ("nosuch://host/orders", "does not know this kind of database"),
        ("mssql+pymssql://host/orders", "the driver is not installed: No module named 'pymssql'"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/orders", "the database can't be used: connection failed"),
        ("sqlite:////no/such/folder/orders.db", "unable to open database file"),
        ("sqlite://", "a database in memory can't be shared"),
        ("sqlite+aiosqlite:///orders.db", "sqlite+aiosqlite is an asyncio driver"),
    ],
)
def test_a_database_that_cant_be_used_is_refused_in_one_line(
    url: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, one line that says why, no password in it, and nothing has been shown before."""
    assert demo.main(["--database-url", url]) == 2
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.startswith("sessionwatch: error: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert "secret" not in errors


def test_help_says_what_will_happen_without_loading_sqlalchemy() -> None:
    """--help explains the two runs, gives examples and the exit statuses, and is quick to start."""
    program = (
        "import sys\nfrom sessionwatch.demo import main\ntry:\n    main(['--help'])\n"
        "finally:\n    assert 'sqlalchemy' not in sys.modules"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for part in ("# bug: lost-writes", "--database-url postgresql+psycopg://", "exit status: 0"):
        assert part in ended.stdout


def test_both_halves_have_the_same_modules_and_the_same_main() -> None:
    """They can be read side by side: what differs is the repair."""
    faulty, repaired = demo.FOLDER / "faulty", demo.FOLDER / "repaired"
    assert {path.name for path in faulty.glob("*.py")} == {path.name for path in repaired.glob("*.py")}
    assert (faulty / "models.py").read_text() == (repaired / "models.py").read_text()
    assert (faulty / "main.py").read_text().replace("faulty", "repaired") == (repaired / "main.py").read_text()
