"""``lost-writes``: what only looks like a lost write, and must never be reported."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    create_engine,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, make_transient, scoped_session, sessionmaker

from sessionwatch import uninstall, watching
from sessionwatch.watch.watch import Watch
from tests.rules.models import Item, Order, Tag, seed
from tests.rules.places import is_idle, only

MODES = ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]


def write(session: Session) -> None:
    """All kinds of writes, flushed and pending."""
    session.add(Order())
    session.flush()
    session.execute(update(Tag).values(name="old"))
    session.execute(text("INSERT INTO items (name) VALUES ('washer')"))
    session.add(Tag(name="pending"))


# -- the transaction was ended on purpose -----------------------------------------------------------------


def test_ignores_a_commit(shop: Engine, watch: Watch) -> None:
    """Whatever was written, it was committed."""
    with Session(shop) as session:
        write(session)
        session.commit()
    assert watch.findings == []


def test_ignores_an_explicit_rollback(shop: Engine, watch: Watch) -> None:
    """A rollback says that the writes are not wanted."""
    with Session(shop) as session:
        write(session)
        session.rollback()
    assert watch.findings == []


def test_ignores_a_rollback_of_the_transaction_object(shop: Engine, watch: Watch) -> None:
    """The same said to the SessionTransaction."""
    with Session(shop) as session:
        transaction = session.begin()
        write(session)
        transaction.rollback()
    assert watch.findings == []


def test_ignores_a_begin_block(shop: Engine, watch: Watch) -> None:
    """session.begin() commits at its end, sessionmaker.begin() as well."""
    with Session(shop) as session, session.begin():
        write(session)
    with sessionmaker(shop).begin() as session:
        write(session)
    assert watch.findings == []


def test_ignores_a_session_that_only_read(shop: Engine, watch: Watch) -> None:
    """A read-only session needs no commit."""
    with Session(shop) as session:
        order = session.scalars(select(Order)).one()
        assert (order.status, len(order.items)) == ("new", 2)
    assert watch.findings == []


def test_ignores_expunged_objects(shop: Engine, watch: Watch) -> None:
    """What was taken out of the session is not the session's to lose."""
    with Session(shop) as session:
        session.add(Order())
        session.expunge_all()
        order = session.get_one(Order, 1)
        order.status = "paid"
        session.expunge(order)
        make_transient(order)
    assert watch.findings == []


# -- an exception is on its way ---------------------------------------------------------------------------


def fail_in_with(engine: Engine) -> None:
    with Session(engine) as session:
        write(session)
        raise KeyError("mine")


def fail_in_finally(engine: Engine) -> None:
    session = Session(engine)
    try:
        write(session)
        raise KeyError("mine")
    finally:
        session.close()


def fail_in_except(engine: Engine) -> None:
    session = Session(engine)
    try:
        write(session)
        raise KeyError("mine")
    except KeyError:
        session.close()
        raise


def fail_in_begin(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        write(session)
        raise KeyError("mine")


def fail_in_maker_begin(engine: Engine) -> None:
    with sessionmaker(engine).begin() as session:
        write(session)
        raise KeyError("mine")


def fail_in_closing(engine: Engine) -> None:
    with contextlib.closing(Session(engine)) as session:
        write(session)
        raise KeyError("mine")


def fail_in_provider(engine: Engine) -> None:
    with contextlib.contextmanager(provide)(engine) as session:
        write(session)
        raise KeyError("mine")


def fail_in_with_provider(engine: Engine) -> None:
    with contextlib.contextmanager(provide_with)(engine) as session:
        write(session)
        raise KeyError("mine")


def fail_in_exit_stack(engine: Engine) -> None:
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(Session(engine))
        write(session)
        raise KeyError("mine")


def fail_in_registry(engine: Engine) -> None:
    registry = scoped_session(sessionmaker(engine))
    try:
        write(registry())
        raise KeyError("mine")
    finally:
        registry.remove()


def provide(engine: Engine) -> Iterator[Session]:
    session = Session(engine)
    try:
        yield session
    finally:
        session.close()


def provide_with(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session
        session.commit()


FAILURES = [
    fail_in_with,
    fail_in_finally,
    fail_in_except,
    fail_in_begin,
    fail_in_maker_begin,
    fail_in_closing,
    fail_in_provider,
    fail_in_with_provider,
    fail_in_exit_stack,
    fail_in_registry,
]


@pytest.mark.parametrize("fail", FAILURES)
def test_ignores_an_exception_on_its_way(shop: Engine, watch: Watch, fail: Callable[[Engine], None]) -> None:
    """A failure rolls back, which is what the author wants."""
    with pytest.raises(KeyError, match="mine"):
        fail(shop)
    assert watch.findings == []
    assert is_idle(shop)


def test_ignores_an_exception_on_its_way_inside_an_except_block(shop: Engine, watch: Watch) -> None:
    """An exception of its own leaves the session that was opened while another was being handled."""
    with pytest.raises(KeyError, match="mine"):
        fail_in_handler(shop)
    assert watch.findings == []


def fail_in_handler(engine: Engine) -> None:
    try:
        raise ValueError("outer")
    except ValueError:
        fail_in_with(engine)


def test_ignores_a_failing_database_error(shop: Engine, watch: Watch) -> None:
    """A statement that failed lets nothing of the transaction be kept."""
    with pytest.raises(DBAPIError):
        fail_in_database(shop)
    assert watch.findings == []


def fail_in_database(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Order())
        session.flush()
        session.execute(text("INSERT INTO nowhere VALUES (1)"))


# -- the commit is somebody else's ------------------------------------------------------------------------


@contextlib.contextmanager
def outer_transaction(engine: Engine) -> Iterator[Connection]:
    """The documented recipe for tests: everything inside is rolled back at the end."""
    connection = engine.connect()
    transaction = connection.begin()
    yield connection
    if transaction.is_active:
        transaction.rollback()
    connection.close()


@pytest.mark.parametrize("mode", MODES)
def test_ignores_a_session_joined_to_an_outer_transaction(shop: Engine, watch: Watch, mode: str) -> None:
    """The test suite's recipe, in each join_transaction_mode."""
    options: dict[str, Any] = {"join_transaction_mode": mode}
    with outer_transaction(shop) as connection, Session(connection, **options) as session:
        write(session)
        session.flush()
    assert watch.findings == []


def test_ignores_several_sessions_joined_to_an_outer_transaction(shop: Engine, watch: Watch) -> None:
    """One test may open several sessions on its connection."""
    with outer_transaction(shop) as connection:
        for _ in range(2):
            with Session(connection) as session:
                session.add(Order())
                session.flush()
    assert watch.findings == []


def test_ignores_the_recipe_with_commits_and_rollbacks(shop: Engine, watch: Watch) -> None:
    """Code under test commits and rolls back inside the savepoint, and leaves some writes behind."""
    with outer_transaction(shop) as connection:
        session = Session(connection, join_transaction_mode="create_savepoint")
        session.add(Order())
        session.commit()
        session.add(Order())
        session.flush()
        session.rollback()
        write(session)
        session.close()
    assert watch.findings == []


def test_ignores_pending_objects_joined_to_an_outer_transaction(shop: Engine, watch: Watch) -> None:
    """Objects that never were flushed belong to the test that throws all away."""
    with outer_transaction(shop) as connection, Session(connection) as session:
        session.add(Order())
    assert watch.findings == []


def test_ignores_a_savepoint_of_the_connection(shop: Engine, watch: Watch) -> None:
    """A session inside of connection.begin_nested() is joined as well."""
    with outer_transaction(shop) as connection:
        savepoint = connection.begin_nested()
        with Session(connection) as session:
            write(session)
            session.flush()
        savepoint.rollback()
    assert watch.findings == []


def test_ignores_a_connection_that_was_committed_directly(shop: Engine, watch: Watch) -> None:
    """Somebody else may commit the Connection behind the session's back."""
    with shop.connect() as connection:
        session = Session(connection)
        session.add(Order())
        session.flush()
        connection.commit()
        session.close()
    with Session(shop) as session:
        assert len(session.scalars(select(Order)).all()) == 2
    assert watch.findings == []


def test_ignores_a_commit_given_as_text(shop: Engine, watch: Watch) -> None:
    """COMMIT and ROLLBACK as statements end the transaction as the methods do."""
    with Session(shop) as session:
        session.add(Order())
        session.flush()
        session.execute(text("COMMIT"))
    with Session(shop) as session:
        session.add(Order())
        session.flush()
        session.execute(text("rollback"))
    assert watch.findings == []


def test_ignores_autocommit_of_an_engine(shop: Engine, watch: Watch) -> None:
    """Under AUTOCOMMIT every statement is kept."""
    with Session(shop.execution_options(isolation_level="AUTOCOMMIT")) as session:
        session.add(Order())
        session.flush()
        session.execute(text("INSERT INTO items (name) VALUES ('washer')"))
    assert watch.findings == []


def test_ignores_autocommit_of_a_connection(shop: Engine, watch: Watch) -> None:
    """The isolation level may be the connection's own."""
    with Session(shop) as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        session.add(Order())
        session.flush()
    with shop.connect().execution_options(isolation_level="AUTOCOMMIT") as connection, Session(connection) as session:
        session.add(Order())
        session.flush()
    assert watch.findings == []


def test_ignores_autocommit_of_the_driver(postgres_url: URL, watch: Watch) -> None:
    """The driver's own setting, which SQLAlchemy does not know of."""
    engine = create_engine(postgres_url, connect_args={"autocommit": True})
    seed(engine)
    with Session(engine) as session:
        session.add(Order())
        session.flush()
    with Session(engine) as session:
        assert len(session.scalars(select(Order)).all()) == 2
    engine.dispose()
    assert watch.findings == []


# -- part of it was rolled back ---------------------------------------------------------------------------


def savepoints(session: Session) -> None:
    """One savepoint is rolled back, one released, one fails."""
    savepoint = session.begin_nested()
    session.add(Tag(name="dropped"))
    session.flush()
    savepoint.rollback()
    with session.begin_nested():
        session.add(Tag(name="kept"))
    with contextlib.suppress(ValueError), session.begin_nested():
        session.add(Tag(name="failed"))
        session.flush()
        raise ValueError


def test_ignores_savepoints_when_the_rest_is_committed(shop: Engine, watch: Watch) -> None:
    """A savepoint that was rolled back is no loss, a released one is committed with the rest."""
    with Session(shop) as session:
        savepoints(session)
        session.commit()
    assert watch.findings == []


def test_ignores_savepoints_on_mariadb(mariadb_shop: Engine, watch: Watch) -> None:
    """The same on MariaDB."""
    with Session(mariadb_shop) as session:
        savepoints(session)
        session.commit()
    assert watch.findings == []


def test_ignores_a_transaction_whose_only_savepoint_was_rolled_back(shop: Engine, watch: Watch) -> None:
    """With the savepoint, everything that was written is gone on purpose."""
    with Session(shop) as session:
        savepoint = session.begin_nested()
        session.add(Tag(name="dropped"))
        session.flush()
        savepoint.rollback()
    assert watch.findings == []


@pytest.mark.parametrize("definition", ["CREATE TABLE extra (x INTEGER)", "TRUNCATE TABLE order_tags", "Table.create"])
def test_ignores_what_mariadb_commits_by_itself(mariadb_shop: Engine, watch: Watch, definition: str) -> None:
    """A definition statement commits what was written before it, and itself; what comes after it is lost."""
    with Session(mariadb_shop) as session:
        session.add(Order())
        session.flush()
        if definition == "Table.create":
            Table("extra", MetaData(), Column("x", Integer)).create(session.connection())
        else:
            session.execute(text(definition))
    assert watch.findings == []
    with Session(mariadb_shop) as session:
        session.execute(text("DROP TABLE IF EXISTS extra"))
        session.add(Order())
        session.flush()
    assert only(watch, "lost-writes").message.startswith("1 Order object was written")


def test_ignores_two_phase_that_was_prepared_and_committed(mariadb_shop: Engine, watch: Watch) -> None:
    """XA on MariaDB: prepare(), then commit()."""
    with Session(mariadb_shop, twophase=True) as session:
        session.add(Order())
        session.flush()
        session.prepare()
        session.commit()
    with Session(mariadb_shop) as session:
        assert len(session.scalars(select(Order)).all()) == 2
    assert watch.findings == []


def test_ignores_two_phase_on_postgresql(shop: Engine, watch: Watch) -> None:
    """PREPARE TRANSACTION, where the server allows it."""
    if shop.dialect.name != "postgresql":
        pytest.skip(f"{shop.dialect.name} has no two-phase commit")
    with shop.connect() as connection:
        if connection.scalar(text("SHOW max_prepared_transactions")) == "0":
            pytest.skip("this PostgreSQL has max_prepared_transactions = 0")
    with Session(shop, twophase=True) as session:
        session.add(Order())
        session.flush()
        session.prepare()
        session.commit()
    assert watch.findings == []


# -- nothing was written ----------------------------------------------------------------------------------


def test_ignores_select_for_update(shop: Engine, watch: Watch) -> None:
    """A lock is not a write, built or given as text."""
    with Session(shop) as session:
        session.scalars(select(Order).with_for_update()).all()
        if shop.dialect.name == "postgresql":
            session.execute(text("SELECT id FROM orders FOR UPDATE"))
            session.execute(text("WITH mine AS (SELECT id FROM orders FOR UPDATE) SELECT count(*) FROM mine"))
    assert watch.findings == []


def test_ignores_select_for_update_on_mariadb(mariadb_shop: Engine, watch: Watch) -> None:
    """The same on MariaDB."""
    with Session(mariadb_shop) as session:
        session.scalars(select(Order).with_for_update()).all()
        session.execute(text("SELECT id FROM orders FOR UPDATE"))
    assert watch.findings == []


def test_ignores_words_in_literals_and_comments(shop: Engine, watch: Watch) -> None:
    """A SELECT that mentions a write does not write."""
    with Session(shop) as session:
        session.execute(text("SELECT 'INSERT INTO items' -- DELETE FROM items"))
        session.execute(text("/* UPDATE items SET name */ SELECT name FROM items"))
    assert watch.findings == []


def test_ignores_a_dirty_object_without_net_change(shop: Engine, watch: Watch) -> None:
    """Setting the same value, or setting it back, is not a change."""
    with Session(shop) as session:
        order = session.get_one(Order, 1)
        before, order.status = order.status, "paid"
        order.status = before
        tags = list(order.tags)
        order.tags = []
        order.tags = tags
    assert watch.findings == []


def test_ignores_a_flush_without_net_change(shop: Engine, watch: Watch) -> None:
    """A flush of such an object sends nothing."""
    with Session(shop) as session:
        order = session.get_one(Order, 1)
        order.status = str(order.status)
        session.flush()
    assert watch.findings == []


def test_ignores_statements_that_matched_no_row(shop: Engine, watch: Watch) -> None:
    """An UPDATE or DELETE of nothing loses nothing."""
    with Session(shop) as session:
        session.execute(update(Item).where(Item.name == "nobody").values(name="x"))
        session.query(Item).filter(Item.name == "nobody").delete()
        session.execute(text("DELETE FROM items WHERE name = 'nobody'"))
    assert watch.findings == []


def test_ignores_statements_that_matched_no_row_on_mariadb(mariadb_shop: Engine, watch: Watch) -> None:
    """The same on MariaDB."""
    with Session(mariadb_shop) as session:
        session.execute(update(Item).where(Item.name == "nobody").values(name="x"))
        session.execute(text("DELETE FROM items WHERE name = 'nobody'"))
    assert watch.findings == []


def test_ignores_tables_that_were_created(shop: Engine, watch: Watch) -> None:
    """DDL is not a write to a table."""
    with Session(shop) as session:
        session.execute(text("CREATE TABLE scratch (id INTEGER)"))
        session.execute(text("DROP TABLE scratch"))
    assert watch.findings == []


# -- temporary tables -------------------------------------------------------------------------------------

scratch = Table("scratch", MetaData(), Column("id", Integer), prefixes=["TEMPORARY"])


def use_scratch(session: Session) -> None:
    connection = session.connection()
    scratch.create(connection)
    session.execute(insert(scratch).values(id=1))
    session.execute(text('CREATE TEMPORARY TABLE IF NOT EXISTS "rough" (id INTEGER)'))
    session.execute(text("INSERT INTO rough VALUES (1)"))


def test_ignores_temporary_tables_when_told_to(shop: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rows end with the connection anyway."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("log", log=False, settings={"lost-writes.temporary-tables": "ignore"}) as watch:
        with Session(shop) as session:
            use_scratch(session)
        assert watch.findings == []
        with Session(shop) as session:
            session.add(Order())
            session.flush()
        assert only(watch, "lost-writes").subject == "Order"


def test_reports_temporary_tables_by_default(shop: Engine, watch: Watch) -> None:
    """Without the setting, a temporary table is a table."""
    with Session(shop) as session:
        use_scratch(session)
    assert only(watch, "lost-writes").subject == "scratch and rough"
