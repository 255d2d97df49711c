"""``lost-writes`` on Core connections: what ``engine.connect()`` wrote and nobody committed."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from sessionwatch import FindingError, allow, uninstall, watching
from sessionwatch.watch.watch import Watch
from tests.rules.models import Tag, create
from tests.rules.places import alone, evidence_line, is_idle, labels, line, only

RULE = "lost-writes"
INSERT = insert(Tag).values(name="x")


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Only this rule is on; our own errors raise."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("log", log=False, rules=alone(RULE)) as installed:
        yield installed


def stored(engine: Engine) -> int:
    """How many tags there are; ``seed`` stores one."""
    with engine.connect() as connection:
        return len(connection.execute(select(Tag)).all())


def test_reports_a_block(watch: Watch, shop: Engine) -> None:
    """The end of the `with` block discards the rows."""
    with shop.connect() as connection:  # block
        connection.execute(INSERT)  # write
    found = only(watch, RULE)
    assert stored(shop) == 1
    assert found.line == line("block")
    assert labels(found) == ["closed", "written"]
    assert evidence_line(found, "written") == line("write")


WRITES: dict[str, tuple[Callable[[Connection], object], str]] = {
    "insert": (lambda c: c.execute(INSERT), "1 row of tags was inserted"),
    "update": (lambda c: c.execute(update(Tag).values(name="y")), "1 row of tags was updated"),
    "text": (lambda c: c.execute(text("UPDATE tags SET name = 'y'")), "1 row of tags was updated"),
    "driver": (lambda c: c.exec_driver_sql("UPDATE tags SET name = 'y'"), "1 row of tags was updated"),
    "delete": (lambda c: (c.execute(text("DELETE FROM order_tags")), c.execute(delete(Tag))), ""),
}


@pytest.mark.parametrize("kind", WRITES)
def test_reports_each_kind_of_write(kind: str, watch: Watch, shop: Engine) -> None:
    """Statements of the expression language, text, and the driver's own."""
    work, words = WRITES[kind]
    connection = shop.connect()
    work(connection)
    connection.close()
    assert only(watch, RULE).message.startswith(words)


def test_reports_what_was_written_after_a_commit(watch: Watch, shop: Engine) -> None:
    """A commit covers what came before it, and no more."""
    with shop.connect() as connection:
        connection.execute(INSERT)
        connection.commit()
        connection.execute(INSERT)
    assert only(watch, RULE).message == "1 row of tags was inserted, but the connection was closed without a commit"
    assert stored(shop) == 2


def test_reports_a_connection_that_was_dropped(watch: Watch, shop: Engine) -> None:
    """A connection that the collector finds."""

    def work() -> None:
        connection = shop.connect()
        connection.execute(INSERT)  # dropped

    work()
    gc.collect()
    found = only(watch, RULE)
    assert found.line == line("dropped")
    assert "was dropped and collected" in found.message


async def test_reports_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """`async with` closes in a task of its own: the block's line stands for it."""
    async with async_shop.connect() as connection:  # async block
        await connection.execute(INSERT)
    found = only(watch, RULE)
    assert found.line == line("async block")
    assert "await connection.commit()" in (found.fix or "")


async def test_reports_an_async_close(watch: Watch, async_shop: AsyncEngine) -> None:
    """`await connection.close()` stands where it is awaited."""
    connection = await async_shop.connect()
    await connection.execute(INSERT)
    await connection.close()  # async close
    assert only(watch, RULE).line == line("async close")


def program(tmp_path: Path, body: str) -> str:
    """Run a program that never imports the ORM under the command; returns the report."""
    path = tmp_path / "core.py"
    path.write_text(textwrap.dedent(body))
    command = [sys.executable, "-m", "sessionwatch", "run", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stderr


def test_reports_a_program_without_the_orm(tmp_path: Path) -> None:
    """`sessionwatch run` watches programs that import SQLAlchemy alone, until their end."""
    report = program(
        tmp_path,
        """
        from sqlalchemy import create_engine, text
        engine = create_engine("sqlite:///core.db")
        connection = engine.connect()
        connection.execute(text("create table t (x int)"))
        connection.commit()
        connection.execute(text("insert into t values (1)"))
        """,
    )
    assert "FAULT  lost-writes  t " in report
    assert "1 row of t was inserted, but the program ended without a commit\n" in report


def test_ignores_a_program_without_the_orm_that_commits(tmp_path: Path) -> None:
    """The same with a commit."""
    report = program(
        tmp_path,
        """
        from sqlalchemy import create_engine, text
        engine = create_engine("sqlite:///core.db")
        with engine.begin() as connection:
            connection.execute(text("create table t (x int)"))
            connection.execute(text("insert into t values (1)"))
        """,
    )
    assert "no findings" in report


def test_exact_message(watch: Watch, shop: Engine) -> None:
    """The headline and the fix, word for word."""
    with shop.connect() as connection:
        connection.execute(INSERT)
    found = only(watch, RULE)
    assert found.message == "1 row of tags was inserted, but the connection was closed without a commit"
    assert found.fix == (
        "commit before the block ends: connection.commit(), or `with engine.begin() as connection:`;\n"
        "to discard on purpose: connection.rollback()"
    )


def test_strict_raises_after_the_close(monkeypatch: pytest.MonkeyPatch, shop: Engine) -> None:
    """What is raised comes when the connection is back in its pool."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("strict", log=False, rules=alone(RULE, "raise")):
        connection = shop.connect()
        connection.execute(INSERT)
        with pytest.raises(FindingError, match="lost-writes"):
            connection.close()
        assert connection.closed
        assert is_idle(shop)


def committed(connection: Connection) -> None:
    connection.execute(INSERT)
    connection.commit()


def rolled_back(connection: Connection) -> None:
    connection.execute(INSERT)
    connection.rollback()


def begun(connection: Connection) -> None:
    with connection.begin():
        connection.execute(INSERT)


def begun_by_somebody(connection: Connection) -> None:
    transaction = connection.begin()
    connection.execute(INSERT)
    del transaction


def no_row(connection: Connection) -> None:
    connection.execute(update(Tag).where(Tag.name == "no such").values(name="y"))


def only_read(connection: Connection) -> None:
    connection.execute(select(Tag)).all()


def of_a_session(connection: Connection) -> None:
    with Session(connection) as session:
        session.add(Tag(name="x"))
        session.flush()
        session.rollback()


def temporary(connection: Connection) -> None:
    connection.execute(text("CREATE TEMPORARY TABLE scratch (x INTEGER)"))


SILENT = [committed, rolled_back, begun, begun_by_somebody, no_row, only_read, of_a_session, temporary]


@pytest.mark.parametrize("work", SILENT, ids=lambda work: work.__name__)
def test_ignores(work: Callable[[Connection], None], watch: Watch, shop: Engine) -> None:
    """Commits, rollbacks, explicit transactions whoever began them, and what wrote no row."""
    with shop.connect() as connection:
        work(connection)
    assert watch.findings == []


@pytest.mark.parametrize("work", [committed, rolled_back, begun, no_row, only_read], ids=lambda work: work.__name__)
async def test_ignores_under_asyncio(work: Callable[[Connection], None], watch: Watch, async_shop: AsyncEngine) -> None:
    """The same on an asyncio engine."""
    async with async_shop.connect() as connection:
        await connection.run_sync(work)
    assert watch.findings == []


def test_ignores_an_exception_on_its_way(watch: Watch, shop: Engine) -> None:
    """An exception that leaves the block means the rollback."""

    def leave() -> None:
        with shop.connect() as connection:
            connection.execute(INSERT)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        leave()
    assert watch.findings == []


async def test_ignores_an_exception_on_its_way_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """The same where the close runs in a task of its own."""

    async def leave(error: BaseException) -> None:
        async with async_shop.connect() as connection:
            await connection.execute(INSERT)
            raise error

    with pytest.raises(ValueError, match="stop"):
        await leave(ValueError("stop"))
    with pytest.raises(asyncio.CancelledError):
        await leave(asyncio.CancelledError())
    assert watch.findings == []


def test_ignores_autocommit(watch: Watch, shop: Engine) -> None:
    """In AUTOCOMMIT every statement is its own transaction."""
    with shop.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(INSERT)
    assert watch.findings == []


def test_ignores_engine_begin_and_raw_connections(watch: Watch, shop: Engine) -> None:
    """`engine.begin()`, `create_all()`, and the driver's own connection."""
    with shop.begin() as connection:
        connection.execute(INSERT)
    create(shop)
    raw = shop.raw_connection()
    raw.cursor().execute("UPDATE tags SET name = 'y'")
    raw.close()
    assert watch.findings == []


def test_ignores_what_is_allowed(watch: Watch, shop: Engine) -> None:
    """A block that says why."""
    with allow(RULE, reason="a dry run"), shop.connect() as connection:
        connection.execute(INSERT)
    assert watch.findings == []
    assert [finding.allowed for finding in watch.allowed] == ["a dry run"]


def test_uninstalling_gives_the_close_back(tmp_path: Path) -> None:
    """A connection that wrote has a close of ours until then, and no longer."""
    uninstall()
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    create(engine)
    with watching("log", log=False):
        connection = engine.connect()
        before = dict(vars(Connection))
        connection.execute(INSERT)
        assert "close" in vars(connection)
    assert "close" not in vars(connection)
    assert dict(vars(Connection)) != before
    connection.close()
