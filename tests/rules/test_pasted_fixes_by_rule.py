"""Fixes that are pasted as they are printed, of the rules and variants that `test_pasted_fixes` does not have."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import URL

from sessionwatch import rules
from sessionwatch.model import Mode
from tests.rules import test_pasted_fixes
from tests.rules.test_pasted_fixes import Case, before, check, each, folder, instead  # noqa: F401 (folder is a fixture)

LOG: tuple[Mode, ...] = ("log",)
STRICT: tuple[Mode, ...] = ("strict",)
REQUEST = """
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
app = FastAPI()
"""

CASES = [
    # -- sessions and connections ---------------------------------------------------------------------
    Case(
        "lost-writes of a connection",
        "lost-writes",
        """
        def work():
            with engine.connect() as connection:
                connection.execute(insert(Tag).values(name="late"))
                pass  # faulty
        work()
        """,
        "connection.commit()",
        before("connection.commit()"),
    ),
    Case(
        "lost-writes of an async connection",
        "lost-writes",
        """
        async def work():
            async with async_engine.connect() as connection:
                await connection.execute(insert(Tag).values(name="late"))
                pass  # faulty
        asyncio.run(work())
        """,
        "await connection.commit()",
        before("await connection.commit()"),
    ),
    Case(
        "lost-writes of a session that is an attribute",
        "lost-writes",
        """
        class Repository:
            def __init__(self):
                self.db = Session(engine)
            def add(self):
                self.db.add(Tag(name="late"))
                self.db.flush()
                pass  # faulty
        def work():
            repository = Repository()
            repository.add()
            repository.db.close()
        work()
        """,
        "self.db.commit()",
        before("self.db.commit()"),
    ),
    Case(
        "lost-writes of a session whose methods run in a thread",
        "lost-writes",
        """
        async def work():
            db = Session(engine)
            db.add(Tag(name="late"))
            await asyncio.to_thread(db.flush)
            await asyncio.to_thread(db.close)  # faulty
        asyncio.run(work())
        """,
        " db.commit()",
        before("db.commit()"),
    ),
    Case(
        "lost-writes of what was expunged",
        "lost-writes",
        """
        def work():
            with sessionwatch.unit_of_work("job"), Session(engine) as session:
                session.add(Tag(name="late"))
                session.expunge_all()  # faulty
                session.commit()
        work()
        """,
        "session.flush()",
        before("session.flush()"),
    ),
    Case(
        "long-session",
        "long-session",
        """
        def work():
            with Session(engine) as db:
                db.scalars(select(Order)).all()
                sleep(7)  # faulty
        work()
        """,
        "`db.commit()`",
        before("db.commit()"),
    ),
    Case(
        "long-session, async",
        "long-session",
        """
        async def work():
            async with AsyncSession(async_engine) as db:
                await db.execute(select(Order))
                sleep(7)  # faulty
        asyncio.run(work())
        """,
        "`await db.commit()`",
        before("await db.commit()"),
    ),
    Case(
        "long-session of an async registry",
        "long-session",
        """
        Db = async_scoped_session(async_sessionmaker(async_engine), scopefunc=asyncio.current_task)
        async def work():
            await Db.execute(select(Order))
            sleep(7)  # faulty
            await Db.remove()
        asyncio.run(work())
        """,
        "`await Db.commit()`",
        before("await Db.commit()"),
    ),
    Case(
        "swallowed-error of a commit that was refused",
        "swallowed-error",
        """
        def work():
            with Session(engine) as s:
                s.add(Tag(name="kept"))
                s.flush()
                s.connection().invalidate()
                try:
                    s.commit()
                except Exception:
                    pass  # faulty
        work()
        """,
        "s.rollback()",
        before("s.rollback()"),
    ),
    Case(
        "discarded-writes",
        "discarded-writes",
        """
        def ensure(db):
            try:
                db.execute(insert(Tag).values(id=1, name="again"))
            except IntegrityError:
                db.rollback()
        def work():
            with Session(engine) as session:
                session.add(Order())
                session.flush()
                ensure(session)
                session.add(Item(name="nail"))
                session.commit()
        work()
        """,
        "`with db.begin_nested():`, and take out db.rollback()",
        each(
            instead("db.execute(", "with db.begin_nested(): db.execute("),
            instead("db.rollback()", "pass"),
        ),
    ),
    Case(
        "discarded-writes, async",
        "discarded-writes",
        """
        async def ensure(db):
            try:
                await db.execute(insert(Tag).values(id=1, name="again"))
            except IntegrityError:
                await db.rollback()
        async def work():
            async with AsyncSession(async_engine) as session:
                session.add(Order())
                await session.flush()
                await ensure(session)
                session.add(Item(name="nail"))
                await session.commit()
        asyncio.run(work())
        """,
        "`async with db.begin_nested():`, and take out await db.rollback()",
        each(
            instead("await db.execute(", "async with db.begin_nested(): await db.execute("),
            instead("await db.rollback()", "pass"),
        ),
    ),
    Case(
        "shared-connection",
        "shared-connection",
        """
        from sqlalchemy import StaticPool, create_engine
        memory = create_engine("sqlite://", poolclass=StaticPool)
        seed(memory)
        first = Session(memory)
        first.add(Order())
        first.flush()
        pass  # faulty
        with Session(memory) as second:
            second.scalars(select(Order)).all()
        first.commit()
        first.close()
        """,
        "first.commit()",
        before("first.commit()"),
    ),
    Case(
        "shared-connection, a connection each",
        "shared-connection",
        """
        from sqlalchemy import StaticPool, create_engine
        memory = create_engine(url, poolclass=StaticPool)
        first = Session(memory)
        first.add(Order())
        first.flush()
        with Session(memory) as second:
            second.scalars(select(Order)).all()
        first.commit()
        first.close()
        """,
        "no StaticPool",
        instead(", poolclass=StaticPool", ""),
    ),
    Case(
        "late-commit",
        "late-commit",
        REQUEST
        + """
def get_session():
    with Session(engine) as session:
        yield session
        session.commit()
@app.post("/orders/{id}", status_code=201)
def create(id: int, db=Depends(get_session)):
    db.add(Order(id=id))
    pass  # faulty
TestClient(app, raise_server_exceptions=False).post("/orders/1")
""",
        "db.commit() in the handler",
        before("db.commit()"),
    ),
    Case(
        "late-commit, async, of a dependency",
        "late-commit",
        REQUEST
        + """
async def get_session():
    async with AsyncSession(async_engine) as session:
        yield session
        await session.commit()
@app.post("/orders/{id}", status_code=201)
async def create(id: int, db=Depends(get_session)):
    db.add(Order(id=id))
TestClient(app, raise_server_exceptions=False).post("/orders/1")
""",
        'Depends(get_session, scope="function")',
        instead("Depends(get_session)", 'Depends(get_session, scope="function")'),
    ),
    Case(
        "late-commit, async",
        "late-commit",
        REQUEST
        + """
async def get_session():
    async with AsyncSession(async_engine) as session:
        yield session
        await session.commit()
@app.post("/orders/{id}", status_code=201)
async def create(id: int, db=Depends(get_session)):
    db.add(Order(id=id))
    pass  # faulty
TestClient(app, raise_server_exceptions=False).post("/orders/1")
""",
        "await db.commit() in the handler",
        before("await db.commit()"),
    ),
    Case(
        "split-unit-of-work",
        "split-unit-of-work",
        """
        def rename():
            with Session(engine) as session:
                session.get(Customer, 1).name = "Grace"
                session.commit()
            with Session(engine) as session:
                session.add(Order(customer_id=1, status="renamed"))
                session.commit()
        rename()
        """,
        "one session and one commit",
        instead("        session.commit()\n    with Session(engine) as session:\n", ""),
    ),
    Case(
        "split-unit-of-work that is meant",
        "split-unit-of-work",
        """
        def rename():
            with Session(engine) as session:
                session.get(Customer, 1).name = "Grace"
                session.commit()
            with Session(engine) as session:
                session.add(Order(customer_id=1, status="renamed"))
                session.commit()
        with contextlib.nullcontext():
            rename()
        """,
        '`with unit_of_work("…", sessions="many"):`',
        instead("contextlib.nullcontext()", 'sessionwatch.unit_of_work("…", sessions="many")'),
    ),
    Case(
        "cross-process",
        "cross-process",
        """
        def answer():
            with engine.connect() as connection:
                return connection.scalar(text("SELECT 42"))
        answer()
        if not (child := os.fork()):
            answer()  # faulty
            os._exit(0)
        os.waitpid(child, 0)
        """,
        "engine.dispose(close=False)",
        before("engine.dispose(close=False)"),
    ),
    # -- use after the end ----------------------------------------------------------------------------
    Case(
        "use-after-close of a block",
        "use-after-close",
        """
        def work():
            with Session(engine) as session:
                session.scalars(select(Order)).all()
            session.scalars(select(Tag)).all()
            session.close()
        with contextlib.suppress(sessionwatch.FindingError):
            work()
        """,
        "keep the work inside the block",
        instead(
            "    session.scalars(select(Tag)).all()\n    session.close()", "        session.scalars(select(Tag)).all()"
        ),
    ),
    Case(
        "use-after-close of a generator",
        "use-after-close",
        """
        def get_session():
            with Session(engine) as session:
                yield session
        def work():
            session = next(get_session())
            gc.collect()
            session.scalars(select(Tag)).all()
            session.close()
        with contextlib.suppress(sessionwatch.FindingError):
            work()
        """,
        "use it as a context manager",
        each(
            instead("def get_session", "@contextmanager\ndef get_session"),
            instead(
                "session = next(get_session())\n    gc.collect()\n    session.scalars(select(Tag)).all()\n"
                "    session.close()",
                "with get_session() as session:\n        session.scalars(select(Tag)).all()",
            ),
        ),
    ),
    Case(
        "use-after-close of a helper",
        "use-after-close",
        """
        @contextmanager
        def scope():
            with Session(engine) as session:
                yield session
        def work():
            with scope() as session:
                session.scalars(select(Order)).all()
            session.scalars(select(Tag)).all()
            session.close()
        with contextlib.suppress(sessionwatch.FindingError):
            work()
        """,
        "keep the work inside the block of scope()",
        instead(
            "    session.scalars(select(Tag)).all()\n    session.close()", "        session.scalars(select(Tag)).all()"
        ),
    ),
    Case(
        "use-after-close of a registry",
        "use-after-close",
        """
        Db = scoped_session(sessionmaker(engine))
        def work():
            session = Db()
            session.scalars(select(Order)).all()
            Db.remove()
            session.scalars(select(Tag)).all()
            session.close()
        with contextlib.suppress(sessionwatch.FindingError):
            work()
        Db.remove()
        """,
        "take it from its registry again, Db()",
        instead("session.scalars(select(Tag))", "Db().scalars(select(Tag))"),
    ),
    Case(
        "cross-task",
        "cross-task",
        """
        async def read(session, model):
            return (await session.scalars(select(model))).all()
        async def one(session, model):
            return await read(session, model)
        async def work():
            async with AsyncSession(async_engine) as session:
                await session.connection()
                await asyncio.gather(one(session, Order), one(session, Item), return_exceptions=True)
        with contextlib.suppress(Exception):
            asyncio.run(work())
        """,
        "async with AsyncSession(engine) as session: ...",
        instead(
            "    return await read(session, model)",
            "    async with AsyncSession(async_engine) as session:\n        return await read(session, model)",
        ),
    ),
    # -- instances ------------------------------------------------------------------------------------
    Case(
        "detached-touch",
        "detached-touch",
        """
        def status():
            with Session(engine) as session:
                order = session.get(Order, 1)
            return order.status
        status()
        """,
        "read it while the session is open",
        instead("    return order.status", "        return order.status"),
        STRICT,
    ),
    Case(
        "detached-write",
        "detached-write",
        """
        def ship():
            with Session(engine) as session:
                order = session.get(Order, 1)
                pass  # faulty
            order.status = "sent"
        with sessionwatch.unit_of_work("job"):
            ship()
        """,
        "merge the order into a new session and commit",
        instead(
            '    order.status = "sent"',
            '    order.status = "sent"\n    with Session(engine) as session:\n        session.merge(order)\n'
            "        session.commit()",
        ),
    ),
    Case(
        "cross-session of an instance that was given",
        "cross-session",
        """
        def work():
            with Session(engine) as one, Session(engine) as two:
                order = one.get(Order, 1)
                pass  # faulty
                with contextlib.suppress(Exception):
                    two.add(order)
        work()
        """,
        "order = two.get(Order, order.id)",
        before("order = two.get(Order, order.id)"),
    ),
    Case(
        "cross-session, async",
        "cross-session",
        """
        async def work():
            async with AsyncSession(async_engine) as one, AsyncSession(async_engine) as two:
                order = await one.get(Order, 1)
                pass  # faulty
                with contextlib.suppress(Exception):
                    two.add(order)
        asyncio.run(work())
        """,
        "order = await two.get(Order, order.id)",
        before("order = await two.get(Order, order.id)"),
    ),
    Case(
        "cross-session of a merge",
        "cross-session",
        """
        def work():
            with Session(engine) as one, Session(engine) as two:
                order = one.get(Order, 1)
                two.merge(order)
                order.status = "paid"
                two.commit()
        work()
        """,
        "order = two.merge(order)",
        instead("        two.merge(order)", "        order = two.merge(order)"),
    ),
    Case(
        "reattach of older values",
        "reattach",
        """
        def work():
            with Session(engine) as session:
                order = session.get(Order, 1)
            with Session(engine) as session:
                session.get(Order, order.id if False else 1).status = "newer"
                session.commit()
            order_id = 1
            with Session(engine) as db:
                db.merge(order)
                db.commit()
        with sessionwatch.unit_of_work("job", sessions="many"):
            work()
        """,
        "order = db.get(Order, order_id)",
        instead("db.merge(order)", "order = db.get(Order, order_id)"),
    ),
    Case(
        "reattach of an identity that is held",
        "reattach",
        """
        def work():
            with Session(engine) as session:
                order = session.get(Order, 1)
            order_id = 1
            with Session(engine) as db:
                held = db.get(Order, order_id)
                with contextlib.suppress(Exception):
                    db.add(order)
        work()
        """,
        "order = db.get(Order, order_id)",
        instead("db.add(order)", "order = db.get(Order, order_id)"),
    ),
    Case(
        "reattach of a row that is gone, on purpose",
        "reattach",
        """
        from sqlalchemy.orm import make_transient
        def work():
            with Session(engine) as session:
                tag = session.get(Tag, 1)
            with Session(engine) as session:
                session.execute(text("DELETE FROM order_tags"))
                session.execute(text("DELETE FROM tags"))
                session.commit()
            with Session(engine) as session:
                session.merge(tag)
                session.commit()
        with sessionwatch.unit_of_work("job", sessions="many"):
            work()
        """,
        "make_transient(tag), then session.add(tag)",
        instead("session.merge(tag)", "make_transient(tag); session.add(tag)"),
    ),
    Case(
        "implicit-io of a query",
        "implicit-io",
        """
        async def work():
            async with AsyncSession(async_engine) as session:
                order = (await session.scalars(select(Order))).first()
                with contextlib.suppress(Exception):
                    order.items
        asyncio.run(work())
        """,
        ".options(selectinload(Order.items))",
        instead("select(Order)", "select(Order).options(selectinload(Order.items))"),
    ),
    Case(
        "implicit-io of a get()",
        "implicit-io",
        """
        async def work():
            async with AsyncSession(async_engine) as session:
                order = await session.get(Order, 1)
                with contextlib.suppress(Exception):
                    order.items
        asyncio.run(work())
        """,
        "options=[selectinload(Order.items)]",
        instead("get(Order, 1)", "get(Order, 1, options=[selectinload(Order.items)])"),
    ),
    Case(
        "implicit-io after a commit",
        "implicit-io",
        """
        async def work():
            async with AsyncSession(async_engine) as session:
                order = await session.get(Order, 1)
                await session.commit()
                with contextlib.suppress(Exception):
                    order.status
        asyncio.run(work())
        """,
        "expire_on_commit=False",
        instead("AsyncSession(async_engine)", "AsyncSession(async_engine, expire_on_commit=False)"),
    ),
    Case(
        "implicit-io of what the session made",
        "implicit-io",
        """
        async def work():
            async with AsyncSession(async_engine, expire_on_commit=False) as session:
                order = Order()
                session.add(order)
                await session.commit()
                pass  # faulty
                with contextlib.suppress(Exception):
                    order.items
        asyncio.run(work())
        """,
        'await session.refresh(order, ["items"])',
        before('await session.refresh(order, ["items"])'),
    ),
    Case(
        "n-plus-one of a query",
        "n-plus-one",
        """
        with Session(engine) as session, session.begin():
            session.add_all([Order() for _ in range(6)])
        def work():
            with Session(engine) as session:
                return sum(len(order.items) for order in session.scalars(select(Order)))
        work()
        """,
        ".options(selectinload(Order.items))",
        instead("scalars(select(Order))", "scalars(select(Order).options(selectinload(Order.items)))"),
    ),
    Case(
        "n-plus-one of what a commit expired",
        "n-plus-one",
        """
        with Session(engine) as session, session.begin():
            session.add_all([Order() for _ in range(6)])
        def work():
            with Session(engine) as session:
                orders = session.scalars(select(Order)).all()
                session.commit()
                return [order.status for order in orders]
        work()
        """,
        "expire_on_commit=False",
        instead(
            "Session(engine) as session:\n        orders",
            "Session(engine, expire_on_commit=False) as session:\n        orders",
        ),
    ),
    Case(
        "untracked-mutation",
        "untracked-mutation",
        """
        from sqlalchemy.orm.attributes import flag_modified
        with Session(engine) as session, session.begin():
            session.add(Profile(options={"a": 1}))
        def work():
            with Session(engine) as session:
                profile = session.get(Profile, 1)
                profile.options["a"] = 2
                pass  # faulty
                session.commit()
        work()
        """,
        'flag_modified(profile, "options")',
        before('flag_modified(profile, "options")'),
        STRICT,
    ),
    Case(
        "blocking-io",
        "blocking-io",
        """
        def read():
            with Session(engine) as session:
                return session.scalars(select(Order.id)).all()
        async def main():
            return read()
        asyncio.run(main())
        """,
        "await asyncio.to_thread(...)",
        instead("return read()", "return await asyncio.to_thread(read)"),
        levels={"blocking-io": "log"},
    ),
    Case(
        "boundary",
        "boundary",
        """
        from dataclasses import make_dataclass
        OrderDTO = make_dataclass("OrderDTO", [("id", int), ("status", str)])
        @sessionwatch.boundary
        def publish(value): ...
        def work():
            with Session(engine) as session:
                instance = session.get(Order, 1)
                with contextlib.suppress(sessionwatch.FindingError):
                    publish(instance)
        work()
        """,
        "sessionwatch.dto.extract(instance, OrderDTO)",
        instead("publish(instance)", "publish(sessionwatch.dto.extract(instance, OrderDTO))"),
    ),
    Case(
        "config of expiring async sessions",
        "config",
        """
        async def work():
            make = async_sessionmaker(async_engine)
            async with make() as session:
                order = await session.get(Order, 1)
                await session.commit()
        asyncio.run(work())
        """,
        "expire_on_commit=False",
        instead("async_sessionmaker(async_engine)", "async_sessionmaker(async_engine, expire_on_commit=False)"),
        levels={"config": "log"},
    ),
]

DISPOSED = """
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import create_async_engine
engine = create_async_engine(POSTGRESQL)
async def job():
    async with engine.connect() as connection:
        await connection.scalar(text("SELECT 42"))
    pass  # faulty
for _ in range(2):
    with contextlib.suppress(Exception):
        asyncio.run(job())
"""
NO_POOL = instead("(POSTGRESQL)", "(POSTGRESQL, poolclass=NullPool)")
FOREIGN = [
    Case("dispose", "foreign-loop", DISPOSED, "await engine.dispose()", before("await engine.dispose()")),
    Case("no pool", "foreign-loop", DISPOSED, "poolclass=NullPool", NO_POOL),
]


@pytest.mark.parametrize("mode", ["log", "strict"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_fix_works_when_it_is_pasted(folder: Path, case: Case, mode: Mode) -> None:  # noqa: F811
    """What is printed is put into the faulty program."""
    if mode not in case.modes:
        pytest.skip("another fix is printed")
    check(folder, case, mode)


@pytest.mark.postgresql
@pytest.mark.parametrize("mode", ["log", "strict"])
@pytest.mark.parametrize("case", FOREIGN, ids=[case.name for case in FOREIGN])
def test_a_fix_of_foreign_loop_works(folder: Path, case: Case, mode: Mode, postgres_url: URL) -> None:  # noqa: F811
    """With a driver whose connections belong to a loop."""
    url = postgres_url.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
    check(folder, case._replace(program=f"POSTGRESQL = {url!r}\n{case.program}"), mode)


def test_every_rule_has_a_fix_that_is_pasted() -> None:
    """A new rule needs one."""
    pasted = {case.rule for case in (*test_pasted_fixes.CASES, *CASES, *FOREIGN)}
    assert pasted == {rule.slug for rule in rules.ALL}
