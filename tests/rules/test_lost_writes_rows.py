"""``lost-writes``: which statements wrote a row, and who committed it: drivers' counts, driver-level commits, DDL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, Table, delete, select, text, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sessionwatch.watch.watch import Watch
from tests.rules.models import Item, Order
from tests.rules.places import is_idle, only

NOTHING, SOMETHING = 1, 77  # a key that is taken, and one that is free
SETS = [{"id": 1, "status": "new"}, {"id": 1, "status": "new"}]


def new(session: Any, key: int) -> Any:
    """An INSERT that leaves alone what is there already."""
    dialect = session.get_bind().dialect.name
    insert = pg_insert if dialect == "postgresql" else sqlite_insert
    return insert(Order).values(id=key, status="new").on_conflict_do_nothing()


def by_rowcount(session: Session, key: int) -> None:
    session.execute(new(session, key))


def by_returning(session: Session, key: int) -> None:
    session.execute(new(session, key).returning(Order.id)).first()


def by_returning_unread(session: Session, key: int) -> None:
    session.execute(new(session, key).returning(Order.id))


def by_text(session: Session, key: int) -> None:
    session.execute(text("INSERT INTO orders (id, status) VALUES (:key, 'new') ON CONFLICT DO NOTHING"), {"key": key})


def by_text_returning(session: Session, key: int) -> None:
    statement = "INSERT INTO orders (id, status) VALUES (:key, 'new') ON CONFLICT DO NOTHING RETURNING id"
    session.execute(text(statement), {"key": key}).all()


def by_driver(session: Session, key: int) -> None:
    statement = f"INSERT INTO orders (id, status) VALUES ({key}, 'new') ON CONFLICT DO NOTHING"
    session.connection().exec_driver_sql(statement)


def by_update(session: Session, key: int) -> None:
    session.execute(update(Order).where(Order.id == (1 if key == SOMETHING else -1)).values(status="paid"))


def by_update_returning(session: Session, key: int) -> None:
    chosen = update(Order).where(Order.id == (1 if key == SOMETHING else -1)).values(status="paid")
    session.scalars(chosen.returning(Order.id)).all()


def by_delete(session: Session, key: int) -> None:
    session.execute(delete(Item).where(Item.id == (1 if key == SOMETHING else -1)))


def by_legacy_query(session: Session, key: int) -> None:
    session.query(Order).filter_by(id=1 if key == SOMETHING else -1).update({"status": "paid"})


def by_many_returning(session: Session, key: int) -> None:
    insert = pg_insert if session.get_bind().dialect.name == "postgresql" else sqlite_insert
    rows = [{"id": 1, "status": "new"}, {"id": key, "status": "new"}]
    session.scalars(insert(Order).on_conflict_do_nothing().returning(Order.id), rows).all()


WAYS = [
    by_rowcount,
    by_returning,
    by_returning_unread,
    by_text,
    by_text_returning,
    by_driver,
    by_update,
    by_update_returning,
    by_delete,
    by_legacy_query,
    by_many_returning,
]
Way = Callable[[Session, int], None]


@pytest.mark.parametrize("way", WAYS)
def test_ignores_a_statement_that_wrote_no_row(shop: Engine, watch: Watch, way: Way) -> None:
    """The driver's count, or the rows of RETURNING, say that there is nothing to commit."""
    with Session(shop) as session:
        way(session, NOTHING)
    assert watch.findings == []


@pytest.mark.parametrize("way", WAYS)
def test_reports_a_statement_that_wrote_one(shop: Engine, watch: Watch, way: Way) -> None:
    """The other side of it, word for word the same statement."""
    with Session(shop) as session:
        way(session, SOMETHING)
    assert "1 row of" in only(watch, "lost-writes").message or "rows of" in watch.findings[0].message


@pytest.mark.parametrize("way", WAYS[:3] + WAYS[6:9] + WAYS[-1:])
@pytest.mark.parametrize("key", [NOTHING, SOMETHING])
async def test_counts_rows_under_asyncio(async_shop: AsyncEngine, watch: Watch, way: Way, key: int) -> None:
    """The same with the drivers of asyncio, whose rows are fetched when the statement has run."""
    async with AsyncSession(async_shop) as session:
        await session.run_sync(way, key)
    assert [finding.rule for finding in watch.findings] == (["lost-writes"] if key == SOMETHING else [])


def a_cte_that_deletes(chosen: int) -> Any:
    return select(delete(Item).where(Item.id == chosen).returning(Item.id).cte("gone"))


def text_that_deletes(chosen: int) -> Any:
    return text(f"WITH gone AS (DELETE FROM items WHERE id = {chosen} RETURNING id) SELECT id FROM gone")


def text_that_takes(chosen: int) -> Any:
    found = f"WITH found AS (SELECT id FROM orders WHERE id = {chosen} FOR UPDATE SKIP LOCKED)"
    return text(f"{found} UPDATE orders SET status = 'taken' FROM found WHERE orders.id = found.id RETURNING orders.id")


@pytest.mark.parametrize("key", [NOTHING, SOMETHING])
@pytest.mark.parametrize("statement", [a_cte_that_deletes, text_that_deletes, text_that_takes])
def test_rows_of_a_statement_with_a_cte(shop: Engine, watch: Watch, key: int, statement: Callable[[int], Any]) -> None:
    """PostgreSQL counts the outer statement's rows: where it brought none, nothing is known to be written."""
    if shop.dialect.name != "postgresql":
        pytest.skip(f"{shop.dialect.name} has no such statement")
    with Session(shop) as session:
        session.execute(statement(1 if key == SOMETHING else -1)).all()
    assert [finding.rule for finding in watch.findings] == (["lost-writes"] if key == SOMETHING else [])


def test_reports_what_a_driver_does_not_count(shop: Engine, watch: Watch) -> None:
    """Some drivers count nothing of an executemany: an INSERT is then taken for what it says."""
    with Session(shop) as session:
        session.execute(text("INSERT INTO tags (name) VALUES (:name)"), [{"name": "a"}, {"name": "b"}])
    only(watch, "lost-writes")


# -- text that says little --------------------------------------------------------------------------------


MARIADB_WRITES = [
    "DELETE i FROM items i JOIN orders o ON o.id = i.order_id",
    "DELETE FROM i USING items i JOIN orders o ON o.id = i.order_id",
    "INSERT tags (name) VALUES ('late')",
    "INSERT IGNORE tags (name) VALUES ('late')",
    "REPLACE tags (name) VALUES ('late')",
    "/* nightly */ INSERT INTO tags (name) VALUES ('late')",
    "/*!50000 INSERT INTO tags (name) VALUES ('late') */",
    "CALL add_tag()",
    "UPDATE orders o JOIN items i ON o.id = i.order_id SET o.status = 'paid'",
]
MARIADB_READS = [
    "SELECT 1 INTO @found",
    "SET @found = 1",
    "CALL read_tags()",
    "DELETE i FROM items i JOIN orders o ON o.id = i.order_id WHERE o.id = -1",
    "DO 1",
]


@pytest.fixture
def procedures(mariadb_shop: Engine) -> Iterator[Engine]:
    """A procedure that writes, and one that reads."""
    bodies = {"add_tag": "INSERT INTO tags (name) VALUES ('late')", "read_tags": "SELECT * FROM tags"}
    with mariadb_shop.begin() as connection:
        for name, body in bodies.items():
            connection.exec_driver_sql(f"CREATE OR REPLACE PROCEDURE {name}() {body}")
    yield mariadb_shop
    with mariadb_shop.begin() as connection:
        for name in bodies:
            connection.exec_driver_sql(f"DROP PROCEDURE {name}")


@pytest.mark.parametrize("statement", MARIADB_WRITES)
def test_reports_a_statement_whose_verb_says_little(procedures: Engine, watch: Watch, statement: str) -> None:
    """Rows that the driver counts without a result set were written, whatever the text looks like."""
    with Session(procedures) as session:
        session.execute(text(statement))
    only(watch, "lost-writes")


@pytest.mark.parametrize("statement", MARIADB_READS)
def test_ignores_a_count_that_is_of_no_write(procedures: Engine, watch: Watch, statement: str) -> None:
    """A variable, a result set, and what matched no row."""
    with Session(procedures) as session:
        session.execute(text(statement))
    assert watch.findings == []


def test_ignores_what_a_temporary_table_was_made_from(mariadb_shop: Engine, watch: Watch) -> None:
    """A temporary table is the connection's own, however many rows the driver counts."""
    with Session(mariadb_shop) as session:
        session.execute(text("CREATE TEMPORARY TABLE copied AS SELECT * FROM items"))
        session.scalars(text("SELECT count(*) FROM copied")).all()
    assert watch.findings == []


# -- who committed ----------------------------------------------------------------------------------------


def write(session: Session) -> None:
    session.execute(update(Order).values(status="paid"))


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_ignores_what_the_drivers_connection_ended(shop: Engine, watch: Watch, how: str) -> None:
    """Recipes of COPY end the transaction by the driver's own method; the rows are stored, or meant to be gone."""
    with Session(shop) as session:
        write(session)
        getattr(session.connection().connection, how)()
    assert watch.findings == []


def test_ignores_what_mariadbs_connection_committed(mariadb_shop: Engine, watch: Watch) -> None:
    """The same with MariaDB's driver."""
    with Session(mariadb_shop) as session:
        write(session)
        session.connection().connection.commit()
    assert watch.findings == []


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_ignores_what_the_connection_ended(shop: Engine, watch: Watch, how: str) -> None:
    """The session's Connection has the methods as well."""
    with Session(shop) as session:
        write(session)
        getattr(session.connection(), how)()
    assert watch.findings == []


def test_reports_a_write_after_the_drivers_commit(shop: Engine, watch: Watch) -> None:
    """What came after it is lost as ever."""
    with Session(shop) as session:
        write(session)
        session.connection().connection.commit()
        write(session)
    only(watch, "lost-writes")


async def test_ignores_what_an_async_drivers_connection_committed(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio."""
    async with AsyncSession(async_shop) as session:
        await session.run_sync(write)
        connection = await session.connection()
        driver: Any = (await connection.get_raw_connection()).driver_connection
        if hasattr(driver, "commit"):
            await driver.commit()
        else:
            await driver.execute("COMMIT")
    assert watch.findings == []


async def test_reports_a_write_that_no_async_driver_committed(async_shop: AsyncEngine, watch: Watch) -> None:
    """The other side of it."""
    async with AsyncSession(async_shop) as session:
        await session.run_sync(write)
        connection = await session.connection()
        await connection.get_raw_connection()
    only(watch, "lost-writes")


# -- zope -------------------------------------------------------------------------------------------------


def zope(engine: Engine) -> scoped_session[Session]:
    register = pytest.importorskip("zope.sqlalchemy").register
    registry = scoped_session(sessionmaker(engine))
    register(registry)
    return registry


def test_ignores_zopes_abort(shop: Engine, watch: Watch) -> None:
    """``transaction.abort()`` is how a program of zope.sqlalchemy's rolls back."""
    registry = zope(shop)
    import transaction

    with transaction.manager:
        registry.add(Order(status="kept"))
    transaction.begin()
    registry.add(Order(status="not valid"))
    registry.flush()
    transaction.abort()
    assert watch.findings == []


def test_reports_what_zope_does_not_commit(shop: Engine, watch: Watch) -> None:
    """A statement that zope.sqlalchemy was not told of is lost at its commit."""
    registry = zope(shop)
    import transaction

    transaction.begin()
    registry.execute(text("UPDATE orders SET status = 'paid'"))
    transaction.commit()
    only(watch, "lost-writes")


# -- DDL --------------------------------------------------------------------------------------------------

DDL = ["CREATE TABLE ddl_new (id INTEGER)", "ALTER TABLE tags ADD COLUMN more INTEGER", "DROP TABLE order_tags"]
HARMLESS = [
    "CREATE TEMPORARY TABLE ddl_new (id INTEGER)",
    "CREATE TABLE IF NOT EXISTS orders (id INTEGER)",
    "DROP TABLE IF EXISTS nothing_like_it",
]


def told(engine: Engine, watch: Watch, *statements: str) -> list[str]:
    with Session(engine) as session:
        for statement in statements:
            session.execute(text(statement))
    return [finding.message.partition(",")[0] for finding in watch.findings]


@pytest.mark.parametrize(
    ("statement", "what"),
    zip(DDL, ["table ddl_new was created", "table tags was altered", "table order_tags was dropped"], strict=True),
)
def test_counts_ddl_where_the_database_undoes_it(shop: Engine, watch: Watch, statement: str, what: str) -> None:
    """PostgreSQL undoes it; SQLite's driver begins no transaction for it."""
    assert told(shop, watch, statement) == ([what] if shop.dialect.name == "postgresql" else [])


def test_counts_ddl_after_a_write(shop: Engine, watch: Watch) -> None:
    """After a write SQLite's driver is in a transaction, and undoes both."""
    assert told(shop, watch, "UPDATE orders SET status = 'paid'", DDL[0]) == [
        "1 row of orders and table ddl_new were written"
    ]


def test_counts_ddl_that_is_no_text(shop: Engine, watch: Watch) -> None:
    """``create_all()`` on the session's connection."""
    metadata = MetaData()
    Table("ddl_new", metadata, Column("id", Integer))
    with Session(shop) as session:
        metadata.create_all(session.connection())
    assert [finding.message.partition(",")[0] for finding in watch.findings] == (
        ["table ddl_new was created"] if shop.dialect.name == "postgresql" else []
    )
    with shop.begin() as connection:
        metadata.drop_all(connection)


@pytest.mark.parametrize("statement", HARMLESS)
def test_ignores_ddl_that_need_not_do_anything(shop: Engine, watch: Watch, statement: str) -> None:
    """A temporary table, and what may be there, or gone, already."""
    assert told(shop, watch, statement) == []


@pytest.mark.parametrize("statement", ["CREATE TABLE ddl_new (id INTEGER)", "DROP TABLE ddl_new"])
def test_ignores_ddl_on_mariadb(mariadb_shop: Engine, watch: Watch, statement: str) -> None:
    """It commits by itself, before and after."""
    with mariadb_shop.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS ddl_new")
        if statement.startswith("DROP"):
            connection.exec_driver_sql("CREATE TABLE ddl_new (id INTEGER)")
    assert told(mariadb_shop, watch, "UPDATE orders SET status = 'paid'", statement) == []


def test_leaves_the_pool_idle_in_strict_mode(shop: Engine, strict: Watch) -> None:
    """What wrote nothing raises nothing."""
    with Session(shop) as session:
        by_returning(session, NOTHING)
        session.scalars(select(Order.id)).all()
    assert is_idle(shop)
    assert strict.findings == []
