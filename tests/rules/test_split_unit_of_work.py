"""``split-unit-of-work``: two sessions that committed writes to one database within one unit."""

# ruff: noqa: PT012

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sessionwatch import FindingError, allow, uninstall, unit_of_work, watching
from sessionwatch.hooks.commits import database_of
from sessionwatch.output import messages
from sessionwatch.units.asgi import UnitOfWorkMiddleware
from sessionwatch.watch.watch import Watch
from tests.rules import models
from tests.rules.models import Order, Tag
from tests.rules.places import evidence_line, is_idle, labels, line, only

RULE = "split-unit-of-work"


def create(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Order(status="made"))
        session.commit()


def update(engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(text("UPDATE orders SET status = 'paid' WHERE id = 1"))  # suw-update
        session.commit()


async def create_async(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        session.add(Order(status="made"))
        await session.commit()  # suw-create


async def tag_async(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        session.add(Tag(name="late"))
        await session.commit()


async def update_async(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, session.begin():
        session.add(Tag(name="paid"))


# -- reported: a declared unit ---------------------------------------------------------------------------


def test_reports_two_sessions_of_a_unit(shop: Engine, watch: Watch) -> None:
    """The primary place is the second session's first write; both sessions' stories are the evidence."""
    with unit_of_work("checkout"):
        with Session(shop) as session:  # suw-opened-1
            session.execute(insert(Tag).values(name="one"))  # suw-written-1
            session.commit()
        with Session(shop) as session:
            session.execute(insert(Tag).values(name="two"))  # suw-written-2
            session.execute(insert(Tag).values(name="three"))
            session.execute(insert(Tag).values(name="four"))
            session.commit()  # suw-committed-2
    finding = only(watch, RULE)
    assert (finding.line, finding.unit, finding.subject) == (line("suw-written-2"), "checkout", "checkout")
    assert (finding.severity, finding.count) == ("advice", 1)
    assert labels(finding) == ["committed", "written", "opened"] * 2
    assert evidence_line(finding, "committed") == line("suw-committed-2")
    earlier = finding.evidence[3:]
    assert [item.site.line for item in earlier if item.site][1:] == [line("suw-written-1"), line("suw-opened-1")]
    assert {item.session for item in earlier} != {item.session for item in finding.evidence[:3]}


def test_reports_its_message(shop: Engine, watch: Watch) -> None:
    """The whole story, word for word."""
    with unit_of_work("checkout"):
        create(shop)
        update(shop)  # suw-called
    finding = only(watch, RULE)
    one, two = finding.evidence[5].session, finding.evidence[0].session
    places = [(item.label, item.site) for item in finding.evidence if item.site]
    rows = [f"{label:<11}  {site.shown_path}:{site.line} in {site.function}" for label, site in places]
    width = max(map(len, rows))
    told = [f"  {row:<{width}}     session {two if index < 3 else one}" for index, row in enumerate(rows)]
    what = "checkout committed its writes in two sessions: the first ones stay where the second ones fail"
    assert messages.render(finding).splitlines() == [
        f"split-unit-of-work: {what}",
        *told,
        f"  called from  tests/rules/test_split_unit_of_work.py:{line('suw-called')} in test_reports_its_message",
        "  fix: use one session and one commit for all of it: hand the first session on; where it is meant,",
        '       say so: `with unit_of_work("…", sessions="many"):`',
        "  more: sessionwatch explain split-unit-of-work",
    ]


def test_reports_once_a_unit(shop: Engine, watch: Watch) -> None:
    """A third session adds nothing; the next unit is a count more."""
    for _ in range(2):
        with unit_of_work("checkout"):
            create(shop)
            update(shop)
            create(shop)
    assert only(watch, RULE).count == 2


def test_reports_sessions_side_by_side(shop: Engine, watch: Watch) -> None:
    """Sessions that are open at the same time are as split; the second commit is what counts."""
    with unit_of_work("checkout"), Session(shop) as one, Session(shop) as two:
        one.add(Tag(name="one"))
        two.add(Order())
        two.commit()
        one.flush()  # suw-flush
        one.commit()
    assert only(watch, RULE).line == line("suw-flush")


def test_reports_two_engines_on_one_database(postgres_url: Any, watch: Watch) -> None:
    """Two engines with one URL are one database."""
    one, two = create_engine(postgres_url), create_engine(postgres_url)
    models.seed(one)
    with unit_of_work("checkout"):
        create(one)
        update(two)
    assert only(watch, RULE).line == line("suw-update")
    one.dispose()
    two.dispose()


def test_reports_engines_that_are_gone(tmp_path: Path, watch: Watch) -> None:
    """The first commit is known by its database: neither its session nor its engine is kept for that."""
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    models.seed(create_engine(url))
    gone = []
    with unit_of_work("checkout"):
        for work in (create, update):
            engine = create_engine(url)
            gone.append(weakref.ref(engine))
            work(engine)
            engine.dispose()
            del engine
            gc.collect()
        assert [reference() for reference in gone] == [None, None]
    assert only(watch, RULE).line == line("suw-update")


def test_reports_a_unit_whose_first_commit_is_of_a_temporary_table(shop: Engine, watch: Watch) -> None:
    """A temporary table's rows don't count: the first commit of a unit is the first one that does."""
    with unit_of_work("checkout"):
        with Session(shop) as session:
            session.execute(text("CREATE TEMPORARY TABLE scratch (id INTEGER)"))
            session.execute(text("INSERT INTO scratch VALUES (1)"))
            session.commit()
        with Session(shop) as session:
            session.execute(insert(Tag).values(name="one"))  # suw-after-scratch
            session.commit()
        update(shop)
    finding = only(watch, RULE)
    assert (finding.line, finding.evidence[4].site.line) == (line("suw-update"), line("suw-after-scratch"))  # type: ignore[union-attr]


def test_reports_a_write_after_a_rolled_back_savepoint(shop: Engine, watch: Watch) -> None:
    """The first write that was kept is named, not one that a savepoint took back."""
    with unit_of_work("checkout"):
        create(shop)
        with Session(shop) as session:
            savepoint = session.begin_nested()
            session.execute(insert(Tag).values(name="dropped"))
            savepoint.rollback()
            session.execute(insert(Tag).values(name="kept"))  # suw-kept
            session.commit()
    assert only(watch, RULE).line == line("suw-kept")


def test_reports_threads_of_a_unit_that_share_its_context(shop: Engine, watch: Watch) -> None:
    """Work that a framework does in a thread pool with the unit's context belongs to it."""

    async def unit() -> None:
        async with unit_of_work("checkout"):
            await asyncio.to_thread(create, shop)
            await asyncio.to_thread(update, shop)

    if shop.url.database in (None, "", ":memory:"):
        pytest.skip("the driver binds a connection to its thread")
    asyncio.run(unit())
    assert only(watch, RULE).line == line("suw-update")


async def test_reports_async_sessions_of_a_unit(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio, with the places on the other side of the greenlet."""
    async with unit_of_work("checkout"):
        await create_async(async_shop)
        async with AsyncSession(async_shop) as session:
            await session.execute(insert(Tag).values(name="paid"))  # suw-async
            await session.commit()
    assert only(watch, RULE).line == line("suw-async")


async def test_reports_children_of_a_unit(async_shop: AsyncEngine, watch: Watch) -> None:
    """Tasks that a unit gathers belong to it."""
    async with unit_of_work("checkout"):
        await asyncio.gather(create_async(async_shop), tag_async(async_shop))
    assert only(watch, RULE).severity == "advice"


def test_reports_in_telemetry(shop: Engine) -> None:
    """Production sees declared units."""
    uninstall()
    with watching("telemetry", log=False) as watch:
        with unit_of_work("checkout"):
            create(shop)
            update(shop)

        def operation() -> None:
            create(shop)
            update(shop)

        operation()
    finding = only(watch, RULE)
    assert (finding.count, finding.function) == (1, "update")


# -- reported: one call of a function --------------------------------------------------------------------


def test_reports_a_function_that_opened_both(shop: Engine, watch: Watch) -> None:
    """Without a unit, one call of a function that made both sessions is the unit."""

    def place_order() -> None:
        with Session(shop) as session:
            session.add(Order())
            session.commit()
        with Session(shop) as session, session.begin():
            session.execute(insert(Tag).values(name="new"))  # suw-function

    place_order()
    finding = only(watch, RULE)
    assert (finding.line, finding.subject, finding.unit) == (line("suw-function"), "place_order", None)
    assert finding.message.startswith("one call of place_order() committed its writes in two sessions: ")


def test_reports_a_function_that_calls_two_others(shop: Engine, watch: Watch) -> None:
    """``create(); update()``, each with a session of its own, is one unit in two transactions."""

    def operation() -> None:
        create(shop)
        update(shop)

    operation()
    operation()
    finding = only(watch, RULE)
    assert (finding.subject, finding.function, finding.count) == ("operation", "update", 2)


@contextlib.contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """A provider that commits."""
    session = Session(engine)
    try:
        yield session
        session.commit()
    finally:
        session.close()


class Books:
    """A repository that makes its session."""

    def __init__(self, engine: Engine) -> None:
        self.session = Session(engine)

    def save(self) -> None:
        self.session.add(Order())
        self.session.commit()
        self.session.close()


def with_generators(engine: Engine) -> None:
    with transaction(engine) as session:
        session.add(Order())
    with transaction(engine) as session:
        session.add(Tag(name="new"))


def with_repositories(engine: Engine) -> None:
    first = Books(engine)
    second = Books(engine)
    first.save()
    second.save()


def with_returned_sessions(engine: Engine) -> None:
    def get_session() -> Session:
        return sessionmaker(engine)()

    session = get_session()
    session.add(Order())
    session.commit()
    session.close()
    session = get_session()
    session.add(Order())
    session.commit()
    session.close()


@pytest.mark.parametrize("operation", [with_generators, with_repositories, with_returned_sessions])
def test_reports_a_function_with_providers(shop: Engine, watch: Watch, operation: Callable[[Engine], None]) -> None:
    """Asked for through a generator, an object or a function that returns it."""
    operation(shop)
    assert only(watch, RULE).subject == operation.__name__


async def test_reports_a_coroutine(async_shop: AsyncEngine, watch: Watch) -> None:
    """A coroutine's call goes on over its awaits."""

    async def operation() -> None:
        await create_async(async_shop)
        await asyncio.sleep(0)
        await update_async(async_shop)

    async def handler() -> None:
        await operation()

    await handler()
    assert only(watch, RULE).subject == "operation"


async def test_reports_a_broken_generator(async_shop: AsyncEngine, watch: Watch) -> None:
    """``async for s in get_session(): return s`` makes a session a step, and two transactions of one operation."""

    async def get_session() -> AsyncIterator[AsyncSession]:
        session = AsyncSession(async_shop)
        yield session

    async def obtained() -> AsyncSession:
        async for session in get_session():
            return session
        raise AssertionError

    async def operation() -> None:
        session = await obtained()
        session.add(Order())
        await session.commit()
        await session.close()
        session = await obtained()
        session.add(Tag(name="new"))
        await session.commit()
        await session.close()

    await operation()
    gc.collect()
    assert RULE in [finding.rule for finding in watch.findings]


# -- silent ----------------------------------------------------------------------------------------------


def test_ignores_reading_sessions(shop: Engine, watch: Watch) -> None:
    """Sessions that only read, though they commit, are no split."""
    with unit_of_work("report"):
        create(shop)
        for _ in range(2):
            with Session(shop) as session:
                session.scalars(select(Order)).all()
                session.commit()
    assert watch.findings == []


def test_ignores_writes_that_hit_nothing(shop: Engine, watch: Watch) -> None:
    """An UPDATE without a row has written nothing."""
    with unit_of_work("report"):
        create(shop)
        with Session(shop) as session:
            session.execute(text("UPDATE orders SET status = 'x' WHERE id = -1"))
            session.commit()
    assert watch.findings == []


def test_ignores_other_databases(shop: Engine, tmp_path: Path, watch: Watch) -> None:
    """Sessions on different databases can't be one transaction."""
    other, memory = create_engine(f"sqlite:///{tmp_path / 'log.db'}"), create_engine("sqlite://")
    models.create(other)
    models.create(memory)
    with unit_of_work("import"):
        create(shop)
        create(other)
        create(memory)
    assert watch.findings == []
    other.dispose()
    memory.dispose()


def test_ignores_a_declared_unit(shop: Engine, watch: Watch) -> None:
    """``sessions="many"`` says that it is meant; it is no call of a function either."""

    def operation() -> None:
        with unit_of_work("import", sessions="many"):
            create(shop)
            update(shop)

    operation()
    assert watch.findings == []


def test_ignores_one_session_that_commits_twice(shop: Engine, watch: Watch) -> None:
    """One session may commit as often as it likes, also when it is closed by hand and used again."""
    with unit_of_work("import"), Session(shop) as session:
        for _ in range(2):
            session.add(Order())
            session.commit()
        session.close()
        session.add(Order())
        session.commit()
    assert watch.findings == []


def test_ignores_sessions_that_were_rolled_back(shop: Engine, watch: Watch) -> None:
    """What was rolled back was not committed, and nothing else was."""
    with unit_of_work("import"):
        with Session(shop) as session:
            session.add(Order())
            session.flush()
            session.rollback()
        with contextlib.suppress(ZeroDivisionError), Session(shop) as session, session.begin():
            session.add(Order())
            session.flush()
            raise ZeroDivisionError
    assert watch.findings == []


def test_ignores_a_joined_session(shop: Engine, watch: Watch) -> None:
    """A session in somebody else's transaction, as test recipes have it, commits nothing."""
    with unit_of_work("test"), shop.connect() as connection, connection.begin() as outer:
        for _ in range(2):
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                session.add(Order())
                session.commit()
        outer.rollback()
    assert watch.findings == []


def test_a_released_savepoint_is_no_commit(shop: Engine, watch: Watch) -> None:
    """What it wrote was rolled back with the transaction around it."""
    with unit_of_work("import"):
        create(shop)
        with Session(shop) as session:
            with session.begin_nested():
                session.add(Order())
            session.rollback()
    assert only(watch, RULE).message.startswith("half of import is stored")


def test_ignores_units_of_their_own(shop: Engine, watch: Watch) -> None:
    """Units within a function, or within a unit, are units of their own."""

    def nightly() -> None:
        with unit_of_work("one"):
            create(shop)
        with unit_of_work("two"):
            update(shop)
            with unit_of_work("three"):
                create(shop)

    nightly()
    assert watch.findings == []


def test_ignores_a_worker_loop(shop: Engine, watch: Watch) -> None:
    """A loop that opens a session for each job is many units, also beside what came before it."""

    def worker() -> None:
        update(shop)
        for _ in range(3):
            create(shop)
        while watch.findings == [] and len(rounds) < 3:
            rounds.append(1)
            with Session(shop) as session:
                session.add(Order())
                session.commit()

    def started() -> None:
        worker()

    rounds: list[int] = []
    started()
    assert watch.findings == []


async def test_ignores_an_async_worker_loop(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio; an await is no loop, though Python's code for it jumps back."""

    async def worker() -> None:
        await update_async(async_shop)
        for _ in range(3):
            await create_async(async_shop)

    async def started() -> None:
        await worker()

    await started()
    assert watch.findings == []


def test_ignores_a_loop_that_chooses(shop: Engine, watch: Watch) -> None:
    """Rounds of a loop that take different ways through it are not one unit."""

    def dispatch() -> None:
        for kind in ("new", "paid", "new", "paid"):
            if kind == "new":
                create(shop)
            else:
                update(shop)

    def main() -> None:
        dispatch()

    main()
    assert watch.findings == []


def test_ignores_calls_one_after_the_other(shop: Engine, watch: Watch) -> None:
    """Two calls of a function are two units, whatever way each takes and wherever its frame lies in memory."""

    def handle(new: bool) -> int:
        if new:
            create(shop)
        else:
            update(shop)
        return id(sys._getframe())

    def main() -> None:
        frames = [handle(number % 2 == 0) for number in range(6)]
        assert len(set(frames)) < len(frames)  # an address did serve twice

    main()
    assert watch.findings == []


def test_ignores_the_steps_of_a_program(tmp_path: Path, shop: Engine, watch: Watch) -> None:
    """A module's own code is no unit, nor is the main() that it calls with steps that have their sessions."""
    path = tmp_path / "program.py"
    path.write_text(
        "def main():\n    create(engine)\n    update(engine)\n\n"
        "create(engine)\nupdate(engine)\nmain()\n"
        "for step in (0, 1):\n    with Session(engine) as s:\n        s.add(Order())\n        s.commit()\n"
        "with Session(engine) as s:\n    s.add(Order())\n    s.commit()\n"
    )
    names = {"create": create, "update": update, "engine": shop, "Session": Session, "Order": Order}
    exec(compile(path.read_text(), str(path), "exec"), {**names, "__name__": "__main__", "__file__": str(path)})
    assert watch.findings == []


def test_ignores_the_main_that_a_test_calls(shop: Engine, watch: Watch) -> None:
    """A test of a script calls its main(), which is a sequence of units there, too."""

    def main() -> None:
        create(shop)
        update(shop)

    main()
    assert watch.findings == []


def test_ignores_the_parts_of_a_test(shop: Engine, watch: Watch) -> None:
    """A test arranges, acts and looks: with sessions of its own and of what it calls."""
    with Session(shop) as session:
        session.add(Order())
        session.commit()
    update(shop)
    with Session(shop) as session, session.begin():
        session.add(Order())
    assert watch.findings == []


def test_ignores_an_operation_after_its_seed(shop: Engine, watch: Watch) -> None:
    """What a function far outside has called before is no part of an operation."""

    def prepare() -> None:
        create(shop)

    def serve() -> None:
        def inner() -> None:
            update(shop)

        inner()

    def program() -> None:
        prepare()
        serve()

    program()
    assert watch.findings == []


def test_ignores_threads(shop: Engine, watch: Watch) -> None:
    """What another thread does was not asked for by this call."""
    if shop.url.database in (None, "", ":memory:"):
        pytest.skip("the driver binds a connection to its thread")

    def operation() -> None:
        for target in (create, update):
            thread = threading.Thread(target=target, args=(shop,))
            thread.start()
            thread.join()

    operation()
    assert watch.findings == []


async def test_ignores_tasks(async_shop: AsyncEngine, watch: Watch) -> None:
    """Tasks without a unit are units of their own."""

    async def operation() -> None:
        await asyncio.gather(create_async(async_shop), update_async(async_shop))

    await operation()
    assert watch.findings == []


def test_ignores_a_registry(shop: Engine, watch: Watch) -> None:
    """A scoped_session is one session for the whole call."""
    registry = scoped_session(sessionmaker(shop))

    def operation() -> None:
        registry.add(Order())
        registry.commit()
        registry.execute(insert(Tag).values(name="new"))
        registry.commit()
        registry.remove()

    operation()
    assert watch.findings == []


async def test_ignores_a_websocket(async_shop: AsyncEngine, watch: Watch) -> None:
    """Each message of a websocket may have a session."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await create_async(async_shop)
        await update_async(async_shop)

    await UnitOfWorkMiddleware(app)({"type": "websocket", "headers": []}, None, None)
    assert watch.findings == []


def test_ignores_a_task_that_outlives_its_unit(tmp_path: Path, watch: Watch) -> None:
    """A session opened after the unit's end, in a task that it began, is not the unit's."""
    engine = create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    models.create(engine)

    async def program() -> None:
        ended = asyncio.Event()

        async def later() -> None:
            await ended.wait()
            update(engine)

        async with unit_of_work("request"):
            create(engine)
            task = asyncio.create_task(later())
        ended.set()
        await task

    with allow("blocking-io", reason="one sync statement at a time"):
        asyncio.run(program())
    assert watch.findings == []
    engine.dispose()


def test_ignores_under_a_tracer(shop: Engine, watch: Watch) -> None:
    """A debugger's trace functions are left alone: calls are not told apart then."""

    def operation() -> None:
        create(shop)
        update(shop)

    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    try:
        operation()
    finally:
        sys.settrace(before)
    assert watch.findings == []


# -- levels ----------------------------------------------------------------------------------------------


def test_strict_only_notes_it(shop: Engine, strict: Watch) -> None:
    """Advice does not raise in strict mode."""
    with unit_of_work("checkout"):
        create(shop)
        update(shop)
    assert only(strict, RULE).level == "log"
    assert is_idle(shop)


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """The rule raises."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("strict", rules={RULE: "raise"}, log=False) as installed:
        yield installed


def test_raises_when_the_session_has_closed(shop: Engine, raising: Watch) -> None:
    """Set to raise, it waits until the second session has given everything back; its rows are stored."""
    with pytest.raises(FindingError, match=RULE), unit_of_work("checkout"):
        create(shop)
        with Session(shop) as session:
            session.add(Tag(name="second"))
            session.commit()
            session.scalars(select(Order)).all()
    assert is_idle(shop)
    with Session(shop) as session:
        assert session.scalars(select(Tag.name).where(Tag.name == "second")).all() == ["second"]


def test_raising_never_replaces_an_exception(shop: Engine, raising: Watch) -> None:
    """An exception that leaves the second session stays itself."""
    with pytest.raises(ZeroDivisionError), unit_of_work("checkout"):
        create(shop)
        with Session(shop) as session:
            session.add(Order())
            session.commit()
            raise ZeroDivisionError
    only(raising, RULE)
    assert is_idle(shop)


async def test_raises_under_asyncio(async_shop: AsyncEngine, raising: Watch) -> None:
    """The same for an async session."""
    with pytest.raises(FindingError, match=RULE):
        async with unit_of_work("checkout"):
            await create_async(async_shop)
            await update_async(async_shop)
    assert is_idle(async_shop)


# -- which database --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("sqlite:///shop.db", "sqlite+aiosqlite:///./shop.db", True),
        ("sqlite:///shop.db", "sqlite:///log.db", False),
        ("sqlite://", "sqlite://", False),
        ("sqlite:///:memory:", "sqlite:///:memory:", False),
        ("postgresql+psycopg://a@db/shop", "postgresql+asyncpg://b:c@db/shop", True),
        ("postgresql+psycopg://a@db/shop", "postgresql+psycopg://a@db/log", False),
        ("postgresql+psycopg://a@db:1/shop", "postgresql+psycopg://a@db:2/shop", False),
        ("postgresql+psycopg://", "postgresql+psycopg://", False),
    ],
)
def test_databases(one: str, two: str, same: bool) -> None:
    """Engines are on one database where host, port and name say so, whoever logs in with whatever driver."""
    engines = [create_engine(url) for url in (one, two)]
    assert (database_of(engines[0]) == database_of(engines[1])) is same
    assert database_of(engines[0]) == database_of(engines[0].execution_options(isolation_level="AUTOCOMMIT"))
