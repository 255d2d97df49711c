"""``cross-process``: connections that were opened before a fork and are used in the child."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from sessionwatch import FindingError, allow, uninstall, watching
from sessionwatch.output import messages
from sessionwatch.watch.watch import Watch
from tests.rules.places import is_idle, line

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Watch]:
    """Installed in mode ``log``; children write what they find into ``findings.jsonl``."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("log", log=False, output=tmp_path / "findings.jsonl") as installed:
        yield installed


@pytest.fixture
def shop(engine: Engine) -> Engine:
    """A database that the parent has a connection of; in memory, the child has a copy."""
    if engine.url.database is None:
        pytest.skip("a database in memory is copied by the fork")
    return engine


def in_child(function: Callable[[], object]) -> str:
    """Run ``function`` in a forked child; returns what it returned, as text. It must not fail."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        status = 1
        try:
            os.write(writer, str(function()).encode())  # story-in-child
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as answer:
        returned = answer.read().decode()
    assert os.waitpid(child, 0)[1] == 0
    return returned


def found(watch: Watch) -> list[dict[str, Any]]:
    """What children wrote; the parent itself has found nothing."""
    assert watch.findings == []
    path = Path(str(watch.config.output))
    return [json.loads(written) for written in path.read_text(encoding="utf-8").splitlines()]


def ask(engine: Engine) -> None:
    with engine.connect() as connection:  # connecting
        connection.execute(text("SELECT 1"))  # asked


def ask_session(engine: Engine) -> None:
    with Session(engine) as session:
        use(session)


def use(session: Session) -> None:
    session.execute(text("SELECT 1"))  # used


# -- reported -----------------------------------------------------------------------------------------------


def test_reports_a_pooled_connection(shop: Engine, watch: Watch) -> None:
    """A connection that went back to the pool before the fork comes out of it in the child."""
    ask(shop)
    in_child(lambda: ask(shop))
    ask(shop)
    (finding,) = found(watch)
    assert finding["rule"] == "cross-process"
    assert finding["message"] == "SELECT ran in a forked process, on a connection that its parent had opened"
    assert finding["line"] == line("asked")
    assert finding["pid"] != os.getpid()
    assert [item["label"] for item in finding["evidence"]] == ["used", "connected"]
    assert finding["evidence"][1]["line"] == line("connecting")
    assert finding["evidence"][1]["note"] == f"in process {os.getpid()}"


def test_reports_a_session_that_was_held(shop: Engine, watch: Watch) -> None:
    """A session that is in a transaction when the process forks."""
    with Session(shop) as session:
        use(session)
        in_child(lambda: use(session))
        use(session)
    (finding,) = found(watch)
    assert finding["line"] == line("used")
    assert [item["label"] for item in finding["evidence"]] == ["used", "connected", "opened"]


def test_reports_a_new_session_on_an_old_connection(shop: Engine, watch: Watch) -> None:
    """It is the connection that matters, not when the session was made."""
    ask(shop)
    in_child(lambda: ask_session(shop))
    assert [finding["function"] for finding in found(watch)] == ["use"]


def test_reports_each_connection_once(shop: Engine, watch: Watch) -> None:
    """The first use in each child is told, and a grandchild is a child."""
    ask(shop)

    def twice() -> None:
        ask(shop)
        ask(shop)
        in_child(lambda: ask(shop))

    in_child(twice)
    findings = found(watch)
    assert len({finding["pid"] for finding in findings}) == len(findings) == 2


def test_reports_multiprocessing(shop: Engine, watch: Watch) -> None:
    """A process of `multiprocessing` that was forked."""
    ask(shop)
    process = multiprocessing.get_context("fork").Process(target=ask, args=(shop,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [finding["line"] for finding in found(watch)] == [line("asked")]


def test_reports_a_connection_older_than_the_installation(shop: Engine, watch: Watch) -> None:
    """The pool knows when it was opened, though nobody knows where."""
    watch.tracker.connected.clear()
    ask(shop)
    watch.tracker.connected.clear()
    in_child(lambda: ask(shop))
    (finding,) = found(watch)
    assert finding["evidence"][1]["path"] is None


# -- ignored ------------------------------------------------------------------------------------------------


def test_ignores_dispose_in_the_child(shop: Engine, watch: Watch) -> None:
    """The documented way, with a session made after it."""
    ask(shop)

    def child() -> None:
        shop.dispose(close=False)
        ask(shop)
        ask_session(shop)

    in_child(child)
    assert found(watch) == []


def test_ignores_dispose_in_the_parent(shop: Engine, watch: Watch) -> None:
    """A parent that disposed of its pool before the fork left nothing to share."""
    ask(shop)
    shop.dispose()
    in_child(lambda: ask(shop))
    ask(shop)
    assert found(watch) == []


def test_ignores_an_engine_that_was_not_used(shop: Engine, watch: Watch) -> None:
    """An engine is only a recipe until its first connection."""
    in_child(lambda: ask_session(shop))
    assert found(watch) == []


def test_ignores_null_pool(shop: Engine, watch: Watch) -> None:
    """Without a pool each use has a connection of its own."""
    engine = create_engine(shop.url, poolclass=NullPool)
    ask_session(engine)
    in_child(lambda: ask_session(engine))
    assert found(watch) == []


def test_ignores_a_session_without_a_connection(shop: Engine, watch: Watch) -> None:
    """A session that was made before the fork and begins its work in the child."""
    session = Session(shop)
    in_child(lambda: use(session))
    assert found(watch) == []


def test_ignores_a_database_in_memory(watch: Watch) -> None:
    """The child's is a copy, which nobody shares."""
    engine = create_engine("sqlite://")
    ask(engine)
    in_child(lambda: ask(engine))
    assert found(watch) == []


def test_ignores_the_parent(shop: Engine, watch: Watch) -> None:
    """The parent goes on with what is its own."""
    ask(shop)
    in_child(lambda: None)
    ask(shop)
    assert found(watch) == []


# -- message and strict mode ----------------------------------------------------------------------------------


def test_message_word_for_word(shop: Engine, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole story of a session that was held."""
    monkeypatch.chdir(Path(__file__).parent)
    session = Session(shop)  # story-open
    use(session)

    def child() -> str:
        use(session)  # story-child
        return messages.render(watch.findings[0])

    here, name = "test_cross_process.py", "test_message_word_for_word"
    shown = in_child(child)  # story-fork
    label = found(watch)[0]["session"]["id"]
    session.close()
    callers = [("story-child", "child"), ("story-in-child", "in_child"), ("story-fork", name)]
    called = " < ".join(f"{here}:{line(mark)} in {function}" for mark, function in callers)
    assert shown == textwrap.dedent(f"""\
        cross-process: SELECT ran in a forked process, on a connection that its parent had opened
          used         {here}:{line("used")} in use                             session {label}
          connected    {here}:{line("used")} in use                             in process {os.getpid()}
          opened       {here}:{line("story-open")} in {name}     session {label}
          called from  {called}
          fix: in the child, before its first statement: engine.dispose(close=False);
               a session that was opened before the fork is the parent's: open a new one
          more: sessionwatch explain cross-process""")


def test_strict_raises_before_the_statement(shop: Engine, strict: Watch) -> None:
    """Nothing is sent on the parent's connection, and the child's pool is idle."""
    ask(shop)

    def child() -> bool:
        with pytest.raises(FindingError, match="on a connection that its parent had opened"):
            ask_session(shop)
        return is_idle(shop) and [finding.rule for finding in strict.findings] == ["cross-process"]

    assert in_child(child) == "True"


@pytest.mark.parametrize("async_engine", ["asyncpg", "psycopg-async"], indirect=True)
def test_strict_raises_under_asyncio(async_engine: AsyncEngine, strict: Watch) -> None:
    """A connection of a loop that the child does not have is not used either."""

    async def work() -> None:
        async with AsyncSession(async_engine) as session:
            await session.execute(text("SELECT 1"))

    def child() -> list[str]:
        with pytest.raises(FindingError):
            asyncio.run(work())
        return [finding.rule for finding in strict.findings]

    asyncio.run(work())
    assert in_child(child) == "['cross-process']"


async def select_one(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await session.execute(text("SELECT 1"))  # async-used


@pytest.mark.parametrize("async_engine", ["asyncpg", "psycopg-async"], indirect=True)
def test_reports_under_asyncio(async_engine: AsyncEngine, watch: Watch) -> None:
    """An asyncio engine whose pool has a connection of before the fork; the driver may refuse it as well."""

    def child() -> None:
        with contextlib.suppress(Exception):
            asyncio.run(asyncio.wait_for(select_one(async_engine), 5))

    asyncio.run(select_one(async_engine))
    in_child(child)
    (finding,) = (one for one in found(watch) if one["rule"] == "cross-process")
    assert finding["line"] == line("async-used")


@pytest.mark.parametrize("async_engine", ["asyncpg", "psycopg-async"], indirect=True)
def test_ignores_dispose_under_asyncio(async_engine: AsyncEngine, watch: Watch) -> None:
    """The child lets the parent's connections be, and makes its own."""

    def child() -> int:
        async_engine.sync_engine.dispose(close=False)
        asyncio.run(select_one(async_engine))
        return len(watch.findings)

    asyncio.run(select_one(async_engine))
    assert in_child(child) == "0"
    assert watch.findings == []


def test_allowed(shop: Engine, watch: Watch) -> None:
    """An allowance in the child covers it."""
    ask(shop)

    def child() -> int:
        with allow("cross-process", reason="the parent ends by os._exit()"):
            ask(shop)
        return len(watch.findings)

    assert in_child(child) == "0"
