"""Fixes that are pasted as they are printed: the variants of each rule's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessionwatch.model import Level, Mode
from tests.rules.test_pasted_fixes import Case, before, check, each, folder, instead  # noqa: F401 (folder is a fixture)

LOG: tuple[Mode, ...] = ("log",)
CONFIG: dict[str, Level] = {"config": "log"}

CONTRACTS = """
from sqlalchemy import Integer, String
from sqlalchemy.orm import declarative_base, mapped_column
Base = declarative_base()
class Contract(Base):
    __tablename__ = "contracts"
    id = mapped_column(Integer, primary_key=True)
    version = mapped_column(Integer, nullable=False)
    text = mapped_column(String)
    __mapper_args__ = {"version_id_col": version}
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add(Contract(id=1, text="first"))
    session.commit()
"""
LIBRARY = """
from sqlalchemy import ForeignKey, Integer
from sqlalchemy.orm import declarative_base, mapped_column, relationship
Base = declarative_base()
class Author(Base):
    __tablename__ = "authors"
    id = mapped_column(Integer, primary_key=True)
    posts = relationship("Post", lazy="dynamic")
    notes = relationship("Note", lazy="write_only")
class Post(Base):
    __tablename__ = "posts"
    id = mapped_column(Integer, primary_key=True)
    author_id = mapped_column(ForeignKey("authors.id"))
class Note(Base):
    __tablename__ = "notes"
    id = mapped_column(Integer, primary_key=True)
    author_id = mapped_column(ForeignKey("authors.id"))
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add_all([Author(posts=[Post()], notes=[Note()]) for _ in range(6)])
    session.commit()
"""
GONE = """
with Session(engine) as session:
    order = session.get(Order, 1)
with Session(engine) as session:
    session.execute(text("DELETE FROM order_tags"))
    session.execute(text("DELETE FROM items"))
    session.execute(text("DELETE FROM orders"))
    session.commit()
"""
NODES = """
from sqlalchemy import Integer, String, func
from sqlalchemy.orm import declarative_base, mapped_column
Base = declarative_base()
class Node(Base):
    __tablename__ = "nodes"
    id = mapped_column(Integer, primary_key=True)
    name = mapped_column(String)
    changed = mapped_column(String, onupdate=func.current_timestamp())
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add_all([Node(name="root") for _ in range(6)])
    session.commit()
"""
EAGER = instead(
    '    __tablename__ = "nodes"\n', '    __tablename__ = "nodes"\n    __mapper_args__ = {"eager_defaults": True}\n'
)

CASES = [
    # -- the program's own words -----------------------------------------------------------------------
    Case(
        "lost-writes of a sessionmaker with arguments",
        "lost-writes",
        """
        maker = sessionmaker(engine)
        with maker(autoflush=False) as s:
            s.add(Tag(name="late"))
            s.flush()
        """,
        "`with maker(autoflush=False) as s, s.begin():`",
        instead("with maker(autoflush=False) as s:", "with maker(autoflush=False) as s, s.begin():"),
    ),
    Case(
        "lost-writes of an awaited factory",
        "lost-writes",
        """
        async def get_session(tenant):
            return AsyncSession(async_engine)
        async def work():
            async with await get_session("a") as s:
                s.add(Tag(name="late"))
                await s.flush()
        asyncio.run(work())
        """,
        "`async with await get_session('a') as s, s.begin():`",
        instead('async with await get_session("a") as s:', "async with await get_session('a') as s, s.begin():"),
    ),
    Case(
        "session-leak of a provider that is a method",
        "session-leak",
        """
        class Database:
            def session(self, tenant):
                return Session(engine)
        db = Database()
        def work():
            session = db.session("a")
            if True:
                session.scalars(select(Order)).all()
        work()
        """,
        "`with db.session('a') as session:`",
        each(instead('    session = db.session("a")\n', ""), instead("if True:", "with db.session('a') as session:")),
    ),
    Case(
        "implicit-io of what a session with another name made",
        "implicit-io",
        """
        async def work():
            async with AsyncSession(async_engine) as db:
                fresh = Order()
                db.add(fresh)
                await db.flush()
                with contextlib.suppress(Exception):
                    fresh.items  # faulty
                await db.rollback()
        asyncio.run(work())
        """,
        'await db.refresh(fresh, ["items"])',
        before('await db.refresh(fresh, ["items"])'),
    ),
    Case(
        "cross-task of a sessionmaker",
        "cross-task",
        """
        maker = async_sessionmaker(async_engine)
        async def read(session, model):
            return (await session.scalars(select(model))).all()
        async def one(session, model):
            return await read(session, model)
        async def work():
            async with maker() as session:
                await session.connection()
                await asyncio.gather(one(session, Order), one(session, Item), return_exceptions=True)
        with contextlib.suppress(Exception):
            asyncio.run(work())
        """,
        "async with maker() as session: ...",
        instead(
            "    return await read(session, model)",
            "    async with maker() as session:\n        return await read(session, model)",
        ),
    ),
    # -- instances that were given to another session --------------------------------------------------
    Case(
        "reattach of a row that is gone, looked for first",
        "reattach",
        GONE
        + """
order_id = 1
with sessionwatch.unit_of_work("job", sessions="many"), Session(engine) as db:
    order = db.merge(order)  # merge
    db.commit()
""",
        "order = db.get(Order, order_id);",
        instead("order = db.merge(order)  # merge", "order = db.get(Order, order_id)"),
    ),
    Case(
        "reattach of a row that was deleted here",
        "reattach",
        """
        from sqlalchemy.orm import make_transient
        with sessionwatch.unit_of_work("job", sessions="many"):
            with Session(engine) as session:
                tag = session.get(Tag, 1)
                session.execute(text("DELETE FROM order_tags"))
                session.delete(tag)
                session.commit()
            with Session(engine) as db:
                with contextlib.suppress(Exception):
                    db.add(tag)
                db.commit()
        """,
        "make_transient(tag), then db.add(tag)",
        instead("db.add(tag)", "make_transient(tag); db.add(tag)"),
    ),
    Case(
        "reattach that matched no row",
        "reattach",
        GONE
        + """
order_id = 1
with sessionwatch.unit_of_work("job", sessions="many"), Session(engine) as db:
    db.add(order)
    if order is not None:
        order.status = "sent"
    with contextlib.suppress(Exception):
        db.commit()
    db.rollback()
""",
        "order = db.get(Order, order_id)",
        instead("    db.add(order)", "    order = db.get(Order, order_id)"),
    ),
    Case(
        "reattach of another version",
        "reattach",
        CONTRACTS
        + """
with Session(engine) as session:
    contract = session.get(Contract, 1)
with Session(engine) as session:
    session.get(Contract, 1).text = "second"
    session.commit()
contract_id = 1
with sessionwatch.unit_of_work("job", sessions="many"), Session(engine) as db:
    with contextlib.suppress(Exception):
        contract = db.merge(contract)
        contract.text = "third"
        db.commit()
    db.rollback()
""",
        "contract = db.get(Contract, contract_id)",
        instead("contract = db.merge(contract)", "contract = db.get(Contract, contract_id)"),
    ),
    Case(
        "reattach of older values, async",
        "reattach",
        """
        async def work():
            async with AsyncSession(async_engine) as session:
                order = await session.get(Order, 1)
            async with AsyncSession(async_engine) as session:
                (await session.get(Order, 1)).status = "newer"
                await session.commit()
            order_id = 1
            async with AsyncSession(async_engine) as db:
                await db.merge(order)
                await db.commit()
        with sessionwatch.unit_of_work("job", sessions="many"):
            asyncio.run(work())
        """,
        "order = await db.get(Order, order_id)",
        instead("await db.merge(order)", "order = await db.get(Order, order_id)"),
    ),
    # -- two sessions -----------------------------------------------------------------------------------
    Case(
        "cross-session of a refresh",
        "cross-session",
        """
        with Session(engine) as one, Session(engine) as two:
            order = one.get(Order, 1)
            pass  # faulty
            with contextlib.suppress(Exception):
                two.refresh(order)
        """,
        "order = two.get(Order, order.id)",
        before("order = two.get(Order, order.id)"),
    ),
    Case(
        "cross-session of a pending parameter",
        "cross-session",
        """
        with Session(engine) as one, Session(engine) as two:
            order = Order()
            one.add(order)
            with contextlib.suppress(Exception):
                two.scalars(select(Item).where(Item.order == order)).all()
            one.rollback()
            two.rollback()
        """,
        "add the order to the session that asks",
        instead("one.add(order)", "two.add(order)"),
    ),
    Case(
        "cross-session of a merge, async",
        "cross-session",
        """
        async def work():
            async with AsyncSession(async_engine) as one, AsyncSession(async_engine) as two:
                order = await one.get(Order, 1)
                await two.merge(order)
                order.status = "paid"
                await two.commit()
        asyncio.run(work())
        """,
        "order = await two.merge(order)",
        instead("        await two.merge(order)", "        order = await two.merge(order)"),
    ),
    Case(
        "cross-session of a row, the session passed on",
        "cross-session",
        """
        with sessionwatch.unit_of_work("job", sessions="many"), Session(engine) as session, Session(engine) as other:
            order = session.get(Order, 1)
            same = other.get(Order, 1)
            order.status = "paid"
            session.commit()
            same.status = "sent"
            other.commit()
        """,
        "pass the session on",
        instead("Session(engine) as other", "contextlib.nullcontext(session) as other"),
    ),
    Case(
        "cross-session of a row, the first ended",
        "cross-session",
        """
        with sessionwatch.unit_of_work("job", sessions="many"):
            one, two = Session(engine), Session(engine)
            order = one.get(Order, 1)
            same = two.get(Order, 1)
            order.status = "paid"
            one.commit()
            same.status = "sent"
            two.commit()
            one.close()
            two.close()
        """,
        "end the first before the second loads",
        each(
            instead("    same = two.get(Order, 1)\n", ""),
            instead("    one.commit()\n", "    one.commit()\n    one.close()\n    same = two.get(Order, 1)\n"),
        ),
    ),
    # -- one query for each parent ----------------------------------------------------------------------
    Case(
        "n-plus-one of a dynamic collection",
        "n-plus-one",
        LIBRARY
        + """
with Session(engine) as db:
    authors = db.scalars(select(Author)).all()
    ids = [author.id for author in authors]
    for author in authors:
        author.posts.all()
""",
        "db.execute(select(Author.id, Post).join(Author.posts).where(Author.id.in_(ids)))",
        instead(
            "for author in authors:\n        author.posts.all()",
            "db.execute(select(Author.id, Post).join(Author.posts).where(Author.id.in_(ids))).all()",
        ),
    ),
    Case(
        "n-plus-one of a write-only collection, async",
        "n-plus-one",
        LIBRARY
        + """
async def work():
    async with AsyncSession(async_engine) as db:
        authors = (await db.scalars(select(Author))).all()
        ids = [author.id for author in authors]
        for author in authors:
            await db.scalars(author.notes.select())
asyncio.run(work())
""",
        "await db.execute(select(Author.id, Note).join(Author.notes).where(Author.id.in_(ids)))",
        instead(
            "for author in authors:\n            await db.scalars(author.notes.select())",
            "await db.execute(select(Author.id, Note).join(Author.notes).where(Author.id.in_(ids)))",
        ),
    ),
    Case(
        "n-plus-one of keys in a sync session",
        "n-plus-one",
        """
        keys = [1, 2]
        with Session(engine) as db:
            for key in (1, 2, 3, 4, 5, 6):
                db.get(Order, key)  # faulty
        """,
        "db.scalars(select(Order).where(Order.id.in_(keys)))",
        instead(
            "for key in (1, 2, 3, 4, 5, 6):\n        db.get(Order, key)  # faulty",
            "db.scalars(select(Order).where(Order.id.in_(keys))).all()",
        ),
    ),
    Case(
        "n-plus-one of what an async session made",
        "n-plus-one",
        """
        def names(db, orders):
            return [len(order.items) for order in orders]
        async def work():
            async with AsyncSession(async_engine, expire_on_commit=False) as session:
                orders = [Order() for _ in range(6)]
                session.add_all(orders)
                await session.commit()
                pass  # faulty
                await session.run_sync(names, orders)
        asyncio.run(work())
        """,
        "(await session.scalars(select(Order).options(selectinload(Order.items)),"
        ' execution_options={"populate_existing": True})).all()',
        before(
            "(await session.scalars(select(Order).options(selectinload(Order.items)),"
            ' execution_options={"populate_existing": True})).all()'
        ),
        LOG,
    ),
    Case(
        "n-plus-one of what was expired otherwise",
        "n-plus-one",
        """
        with Session(engine) as session, session.begin():
            session.add_all([Order() for _ in range(6)])
        with Session(engine) as db:
            orders = db.scalars(select(Order)).all()
            db.expire_all()
            pass  # faulty
            print([order.status for order in orders])
        """,
        ".execution_options(populate_existing=True)",
        before("db.scalars(select(Order).execution_options(populate_existing=True)).all()"),
    ),
    Case(
        "n-plus-one of a collection that a commit expired",
        "n-plus-one",
        """
        with Session(engine) as session, session.begin():
            session.add_all([Order() for _ in range(6)])
        with Session(engine) as db:
            orders = db.scalars(select(Order)).all()
            db.commit()
            print([len(order.items) for order in orders])
        """,
        ".options(selectinload(Order.items)),\nand make the sessions with expire_on_commit=False",
        each(
            instead("scalars(select(Order))", "scalars(select(Order).options(selectinload(Order.items)))"),
            instead("Session(engine) as db", "Session(engine, expire_on_commit=False) as db"),
        ),
        LOG,
    ),
    Case(
        "n-plus-one of what the database computes",
        "n-plus-one",
        NODES
        + """
with Session(engine) as db:
    nodes = db.scalars(select(Node)).all()
    for node in nodes:
        node.name = "stem"
    db.flush()
    print([node.changed for node in nodes])
    db.commit()
""",
        '__mapper_args__ = {"eager_defaults": True} on Node',
        EAGER,
    ),
    # -- boundaries and settings ------------------------------------------------------------------------
    Case(
        "boundary of a result",
        "boundary",
        """
        from dataclasses import make_dataclass
        OrderDTO = make_dataclass("OrderDTO", [("id", int), ("status", str)])
        @sessionwatch.boundary
        def first():
            with Session(engine) as session:
                instance = session.get(Order, 1)
                return instance
        with contextlib.suppress(sessionwatch.FindingError):
            first()
        """,
        "return plain data, made while the session is open: sessionwatch.dto.extract(instance, OrderDTO)",
        instead("return instance", "return sessionwatch.dto.extract(instance, OrderDTO)"),
    ),
    Case(
        "boundary of a value",
        "boundary",
        """
        from dataclasses import make_dataclass
        OrderDTO = make_dataclass("OrderDTO", [("id", int), ("status", str)])
        with Session(engine) as session:
            instance = session.get(Order, 1)
            with contextlib.suppress(sessionwatch.FindingError):
                sessionwatch.assert_no_instances({"order": instance})
        """,
        "put plain data there, made while the session is open: sessionwatch.dto.extract(instance, OrderDTO)",
        instead('"order": instance', '"order": sessionwatch.dto.extract(instance, OrderDTO)'),
    ),
    Case(
        "config of foreign keys",
        "config",
        """
        from sqlalchemy import create_engine, event
        engine = create_engine(url)
        pass  # faulty
        with Session(engine) as session:
            session.add(Order())
            session.commit()
        engine.dispose()
        """,
        '@event.listens_for(engine, "connect")\ndef enforce(connection, record):\n'
        '    connection.execute("PRAGMA foreign_keys=ON")',
        before(
            '@event.listens_for(engine, "connect")\ndef enforce(connection, record):\n'
            '    connection.execute("PRAGMA foreign_keys=ON")'
        ),
        levels=CONFIG,
    ),
    Case(
        "config of foreign keys, async",
        "config",
        """
        from sqlalchemy import event
        from sqlalchemy.ext.asyncio import create_async_engine
        engine = create_async_engine(url.replace("sqlite", "sqlite+aiosqlite"))
        pass  # faulty
        async def work():
            async with AsyncSession(engine) as session:
                session.add(Order())
                await session.commit()
            await engine.dispose()
        asyncio.run(work())
        """,
        '@event.listens_for(engine.sync_engine, "connect")\ndef enforce(connection, record):\n'
        '    connection.execute("PRAGMA foreign_keys=ON")',
        before(
            '@event.listens_for(engine.sync_engine, "connect")\ndef enforce(connection, record):\n'
            '    connection.execute("PRAGMA foreign_keys=ON")'
        ),
        levels=CONFIG,
    ),
    Case(
        "config of a static pool",
        "config",
        """
        import threading
        from sqlalchemy import StaticPool, create_engine, event
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        running, asked = threading.Event(), threading.Event()
        def hold():
            running.set()
            return asked.wait(1)
        @event.listens_for(engine, "connect")
        def prepare(connection, record):
            connection.create_function("hold", 0, hold)
        def ask(statement):
            with Session(engine) as session:
                session.execute(text(statement))
        thread = threading.Thread(target=ask, args=("SELECT hold()",))
        thread.start()
        running.wait(10)
        with contextlib.suppress(sessionwatch.FindingError):
            ask("SELECT 1")
        asked.set()
        thread.join()
        engine.dispose()
        """,
        "a SQLite file, and no StaticPool",
        instead('"sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}', "url"),
        levels=CONFIG,
    ),
    Case(
        "config of autoflush",
        "config",
        """
        maker = sessionmaker(engine, autoflush=False)
        with maker() as session:
            session.execute(text("PRAGMA foreign_keys=ON"))
            session.add(Order())
            session.scalars(select(Order)).all()
            session.rollback()
        """,
        "leave autoflush on",
        instead(", autoflush=False", ""),
        levels=CONFIG,
    ),
    Case(
        "config of autoflush in one query",
        "config",
        """
        maker = sessionmaker(engine, autoflush=False)
        with maker() as session:
            session.execute(text("PRAGMA foreign_keys=ON"))
            session.add(Order())
            if True:
                session.scalars(select(Order)).all()
            session.rollback()
        """,
        "with session.no_autoflush:",
        instead("if True:", "with session.no_autoflush:"),
        levels=CONFIG,
    ),
]


@pytest.mark.parametrize("mode", ["log", "strict"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_variant_works_when_it_is_pasted(folder: Path, case: Case, mode: Mode) -> None:  # noqa: F811
    """What is printed is put into the faulty program."""
    if mode not in case.modes:
        pytest.skip("another fix is printed")
    check(folder, case, mode)
