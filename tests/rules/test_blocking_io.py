"""``blocking-io``: sync statements on a thread whose event loop is running."""

from __future__ import annotations

import asyncio
import re
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fastapi
import httpx
import litestar
import pytest
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, sessionmaker
from starlette.applications import Starlette

from sessionwatch import FindingError, allow, install, uninstall, watching
from sessionwatch.hooks import statements
from sessionwatch.model import Mark, Options
from sessionwatch.output import messages
from sessionwatch.record.events import Blocked
from sessionwatch.rules import blocking_io
from sessionwatch.watch.watch import Watch
from tests.rules.models import Item, Order
from tests.rules.places import evidence_line, is_idle, labels, line, only


async def query(engine: Engine) -> int:
    with Session(engine) as session:  # sync-open
        return len(session.scalars(select(Order)).all())  # sync-query


# -- reported -----------------------------------------------------------------------------------------------


def test_reports_a_sync_session_in_a_coroutine(shop: Engine, watch: Watch) -> None:
    """The call that runs the statement is the primary place; operation, table and milliseconds are told."""
    assert asyncio.run(query(shop)) == 1
    finding = only(watch, "blocking-io")
    assert finding.severity == "advice"
    assert finding.line == line("sync-query")
    assert labels(finding) == ["ran", "opened"]
    assert evidence_line(finding, "opened") == line("sync-open")
    assert re.match(r"SELECT orders held up the event loop for \d+\.\d ms, run by a sync session$", finding.message)


def test_reports_a_sync_engine(shop: Engine, watch: Watch) -> None:
    """A connection without a session blocks as much."""

    async def main() -> None:
        with shop.begin() as connection:
            connection.execute(text("DELETE FROM items"))  # sync-engine

    asyncio.run(main())
    finding = only(watch, "blocking-io")
    assert finding.message.startswith("DELETE items held up")
    assert finding.message.endswith("run by a sync engine")
    assert finding.line == line("sync-engine")
    assert finding.session is None


def test_reports_a_function_that_a_coroutine_calls(shop: Engine, watch: Watch) -> None:
    """A flush three calls below the coroutine stops the loop as well."""

    def store() -> None:
        with Session(shop) as session:
            session.add(Item(name="screw"))
            session.commit()  # sync-commit

    async def main() -> None:
        store()

    asyncio.run(main())
    assert only(watch, "blocking-io").line == line("sync-commit")


def test_reports_a_callback_of_the_loop(shop: Engine, watch: Watch) -> None:
    """A callback runs outside of every task, on the loop's thread."""

    def callback() -> None:
        with Session(shop) as session:
            session.execute(text("SELECT 1"))
        done.set_result(None)

    async def main() -> None:
        nonlocal done
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(callback)
        await done

    done: asyncio.Future[None]
    asyncio.run(main())
    assert only(watch, "blocking-io").function == "callback"


def test_reports_one_place_once(shop: Engine, watch: Watch) -> None:
    """Several statements from one place are one finding with a count."""

    async def main() -> None:
        with Session(shop) as session:
            for table in ("orders", "items", "orders"):
                session.execute(text(f"SELECT count(*) FROM {table}"))

    asyncio.run(main())
    assert only(watch, "blocking-io").count == 3


def test_reports_the_users_statement_of_a_new_engine(shop: Engine, watch: Watch) -> None:
    """What SQLAlchemy asks a server on the first connection is not counted."""
    url = shop.url
    engine = create_engine(url)
    asyncio.run(ask(engine))
    engine.dispose()
    finding = only(watch, "blocking-io")
    assert finding.message.startswith("SELECT held up")
    assert finding.count == 1


async def ask(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))


# -- ignored ------------------------------------------------------------------------------------------------


async def test_ignores_asyncio_drivers(async_shop: AsyncEngine, watch: Watch) -> None:
    """AsyncSession, run_sync(), streams and the sync session in a listener of it wait without blocking."""
    async with AsyncSession(async_shop) as session:
        (await session.scalars(select(Order))).all()
        await session.run_sync(lambda sync: sync.scalars(select(Item)).all())
        async for _ in await session.stream(select(Order)):
            pass
        await session.rollback()
    async with async_shop.begin() as connection:
        await connection.run_sync(lambda sync: sync.execute(text("SELECT 1")))
    assert watch.findings == []


def test_ignores_run_sync(shop: Engine, watch: Watch) -> None:
    """Inside of SQLAlchemy's greenlet nothing is said, whatever the engine."""
    from sqlalchemy.util import greenlet_spawn

    def work() -> None:
        with Session(shop) as session:
            session.execute(text("SELECT 1"))

    asyncio.run(greenlet_spawn(work))
    assert watch.findings == []


def test_ignores_a_thread_pool(shop: Engine, watch: Watch) -> None:
    """A thread of a pool has no running loop: the one that waits for it goes on."""

    def work() -> None:
        with Session(shop) as session:
            session.execute(text("SELECT 1"))

    async def main() -> None:
        await asyncio.to_thread(work)
        await asyncio.get_running_loop().run_in_executor(None, work)

    asyncio.run(main())
    assert watch.findings == []


def test_ignores_sync_code_before_and_after_the_loop(shop: Engine, watch: Watch) -> None:
    """A loop that does not run holds up nobody."""

    async def nothing() -> None: ...

    with Session(shop) as session:
        session.execute(text("SELECT 1"))
        asyncio.run(nothing())
        session.execute(text("SELECT 1"))
    assert watch.findings == []


def test_ignores_notebooks(shop: Engine, watch: Watch) -> None:
    """A notebook's kernel runs a loop around each cell, which waits for the cell."""
    cell = "with engine.connect() as connection: connection.exec_driver_sql('SELECT 1')"
    kernel: dict[str, object] = {"__name__": "ipykernel.kernelbase", "engine": shop, "cell": cell}
    exec("async def run_cell():\n    exec(cell, {'__name__': '__main__', 'engine': engine})", kernel)
    asyncio.run(kernel["run_cell"]())  # type: ignore[operator]
    assert watch.findings == []


def test_ignores_what_is_faster_than_the_threshold(shop: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a threshold of an hour no statement is slow, and nobody walks to who ran it."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    walked: list[object] = []
    holds_up = statements._holds_up
    monkeypatch.setattr(statements, "_holds_up", lambda *given: walked.append(given) or holds_up(*given))
    with watching("log", settings={"blocking-io.milliseconds": 3_600_000}, log=False) as watch:
        asyncio.run(query(shop))
        assert (watch.findings, walked) == ([], [])
    with watching("log", log=False) as watch:
        asyncio.run(query(shop))
        assert (len(watch.findings), len(walked)) == (1, 1)


def test_ignores_sessions_outside_of_the_target(shop: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another sessionmaker's sessions are nobody's business, nor are bare connections."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with install(target=sessionmaker(shop)) as watch:
        asyncio.run(query(shop))
        asyncio.run(ask(shop))
        assert watch.findings == []


@pytest.mark.parametrize(("mode", "threshold"), [("log", 0.0), ("strict", 0.0), ("telemetry", 50.0)])
def test_threshold_of_each_mode(mode: str, threshold: float) -> None:
    """Each mode has its default, which says where it comes from; a value that is given goes before it."""
    name = "blocking-io.milliseconds"
    with watching(mode, log=False) as watch:  # type: ignore[arg-type]
        assert watch.status()["settings"][name]["value"] == threshold
    with watching(mode, settings={name: 7}, log=False) as watch:  # type: ignore[arg-type]
        assert watch.status()["settings"][name] == {"value": 7.0, "from": "install()"}


@pytest.mark.parametrize(("milliseconds", "found"), [(49.9, 0), (50.0, 1)])
def test_the_threshold_counts_itself(milliseconds: float, found: int) -> None:
    """A statement that takes exactly as long as the threshold is reported."""
    event = Blocked(None, Mark(None, "MainThread", None), "SELECT orders", milliseconds)
    assert len(list(blocking_io.check(event, Options(milliseconds=50.0)))) == found


# -- message and strict mode ----------------------------------------------------------------------------------


def test_message_word_for_word(shop: Engine, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole story of a query in a coroutine."""
    monkeypatch.chdir(Path(__file__).parent)
    asyncio.run(query(shop))
    finding = only(watch, "blocking-io")
    label, task = finding.evidence[-1].session, finding.evidence[0].task
    shown = re.sub(r"for \d+\.\d ms", "for 1.5 ms", messages.render(finding))
    assert shown == textwrap.dedent(f"""\
        blocking-io: SELECT orders held up the event loop for 1.5 ms, run by a sync session
          ran     test_blocking_io.py:{line("sync-query")} in query     session {label}, task {task}
          opened  test_blocking_io.py:{line("sync-open")} in query     session {label}, task {task}
          fix: use create_async_engine() and AsyncSession, or run the sync code in a thread:
               await asyncio.to_thread(...)
          more: sessionwatch explain blocking-io""")


def test_strict_only_logs(shop: Engine, strict: Watch) -> None:
    """Advice does not raise by itself."""
    assert asyncio.run(query(shop)) == 1
    only(strict, "blocking-io")
    assert is_idle(shop)


def test_raises_where_it_is_set_to(shop: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set to ``raise``, the error comes once the statement has run, and the pool is idle after its block."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with (
        watching("strict", rules={"blocking-io": "raise"}, log=False) as watch,
        pytest.raises(FindingError, match="held up the event loop"),
    ):
        asyncio.run(query(shop))
    only(watch, "blocking-io")
    assert is_idle(shop)


def test_keeps_the_error_of_a_statement(shop: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that fails raises its own error."""

    async def fail() -> None:
        with shop.connect() as connection:
            connection.execute(text("SELECT * FROM nothing_like_it"))

    with (
        watching("strict", rules={"blocking-io": "raise"}, log=False),
        pytest.raises(Exception, match="nothing_like_it"),
    ):
        asyncio.run(fail())
    assert is_idle(shop)


def test_allowed(shop: Engine, watch: Watch) -> None:
    """An allowance around the loop covers its statements."""
    with allow("blocking-io", reason="a script with one coroutine"):
        asyncio.run(query(shop))
    assert watch.findings == []
    assert len(watch.allowed) == 1


# -- the async function that is guilty -------------------------------------------------------------------------


def _read(engine: Engine) -> int:
    with Session(engine) as session:
        return len(session.scalars(select(Order)).all())


def _application(engine: Engine) -> fastapi.FastAPI:
    app = fastapi.FastAPI()

    @app.get("/blocks")
    async def blocks() -> int:  # guilty: awaits nothing
        return _read(engine)

    @app.get("/awaits")
    async def awaits() -> int:
        await asyncio.sleep(0)
        return _read(engine)

    @app.get("/plain")
    def plain() -> int:
        return _read(engine)

    return app


async def _get(engine: Engine, path: str) -> int:
    transport = httpx.ASGITransport(app=_application(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        return int((await client.get(path)).text)


def test_names_the_async_function_and_how_it_gets_a_thread(shop: Engine, watch: Watch) -> None:
    """A route that awaits nothing; its fix pasted is the route `plain`, which is silent."""
    asyncio.run(_get(shop, "/blocks"))
    finding = only(watch, "blocking-io")
    within = next(row for row in finding.evidence if row.label == "async def")
    assert within.site is not None
    assert within.site.function == "blocks"
    assert within.note == "holds up the loop meanwhile"
    assert finding.fix.startswith("write `def blocks` for `async def blocks`: it awaits nothing")
    watch.clear()
    asyncio.run(_get(shop, "/plain"))
    assert watch.findings == []


def test_a_route_that_awaits_stays_one(shop: Engine, watch: Watch) -> None:
    """What awaits something can't be a plain function."""
    asyncio.run(_get(shop, "/awaits"))
    assert only(watch, "blocking-io").fix.startswith("use create_async_engine()")


def test_litestar_calls_a_plain_function_on_the_loop(shop: Engine, watch: Watch) -> None:
    """So the fix is not to write one; a plain one that is told to run in a thread is silent."""

    @litestar.get("/blocks")
    async def blocks() -> int:
        return _read(shop)

    @litestar.get("/plain", sync_to_thread=False)
    def plain() -> int:
        return _read(shop)

    @litestar.get("/thread", sync_to_thread=True)
    def thread() -> int:
        return _read(shop)

    async def ask(path: str) -> None:
        transport = httpx.ASGITransport(app=litestar.Litestar([blocks, plain, thread], logging_config=None))
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            assert (await client.get(path)).status_code == 200

    for path in ("/blocks", "/plain"):
        asyncio.run(ask(path))
        assert only(watch, "blocking-io").fix.startswith("use create_async_engine()")
        watch.clear()
    asyncio.run(ask("/thread"))
    assert watch.findings == []


def test_ignores_the_start_of_a_server(watch: Watch, shop: Engine) -> None:
    """What the lifespan runs before the server serves holds up nobody; a task that it begins does so afterwards."""
    asked = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[tuple[str, int]] = []

    async def later(served: asyncio.Event) -> None:
        await served.wait()
        await query(shop)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await query(shop)
        served = asyncio.Event()
        task = asyncio.create_task(later(served))
        yield
        served.set()
        await task

    async def receive() -> dict[str, str]:
        return {"type": next(asked)}

    async def send(message: Any) -> None:
        sent.append((message["type"], len(watch.findings)))

    asyncio.run(Starlette(lifespan=lifespan)({"type": "lifespan", "state": {}}, receive, send))
    assert sent == [("lifespan.startup.complete", 0), ("lifespan.shutdown.complete", 1)]
