"""The fixture ``sessionwatch_persisted``: written by the code under test, present in a new session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, SessionEvents, scoped_session, sessionmaker

from sessionwatch.data.persisted import Persisted
from tests.rules import models
from tests.rules.models import Employee, Order, order_tags
from tests.rules.places import is_idle, line


@pytest.fixture
def shop(engine: Engine) -> Engine:
    models.create(engine)
    return engine


@pytest.fixture
async def async_shop(async_engine: AsyncEngine) -> AsyncEngine:
    await models.create_async(async_engine)
    return async_engine


def lines_of(error: pytest.ExceptionInfo[AssertionError]) -> list[str]:
    return str(error.value).splitlines()


def test_a_committed_row_is_found(shop: Engine, sessionwatch_persisted: Persisted) -> None:
    """By its instance, and by class and key; the row's values come back."""
    with Session(shop) as session:
        order = Order(status="sent")
        session.add(order)
        session.commit()
        assert sessionwatch_persisted(order).status == "sent"
        number = order.id
    row = sessionwatch_persisted(Order, number)
    assert (row.id, row.status, row.notes) == (number, "sent", None)
    assert is_idle(shop)


def test_a_subclass_is_found(shop: Engine, sessionwatch_persisted: Persisted) -> None:
    """All columns of a joined inheritance are there."""
    with Session(shop) as session:
        session.add(Employee(id=7, name="Grace", salary=3))
        session.commit()
    row = sessionwatch_persisted(Employee, 7)
    assert (row.name, row.salary) == ("Grace", 3)


def test_what_is_only_flushed_fails(shop: Engine, sessionwatch_persisted: Persisted) -> None:
    """Written and not committed, also on a connection that everybody shares; the line of the write is told."""
    with Session(shop) as session:
        order = Order()
        session.add(order)
        session.flush()  # persisted-flush
        with pytest.raises(AssertionError) as caught:
            sessionwatch_persisted(order)
        session.rollback()
    assert lines_of(caught) == [
        "the Order was written, but its session has not committed yet",
        f"  written  tests/test_persisted.py:{line('persisted-flush')} in test_what_is_only_flushed_fails",
        "  fix: commit before the session ends: session.commit()",
    ]


def test_what_was_closed_without_a_commit_fails(shop: Engine, sessionwatch_persisted: Persisted) -> None:
    """The session ended, and the story says where."""
    session = Session(shop)
    order = Order()
    session.add(order)
    session.flush()  # persisted-lost
    session.close()  # persisted-close
    with pytest.raises(AssertionError) as caught:
        sessionwatch_persisted(order)
    assert lines_of(caught)[:3] == [
        "the Order was written, but its session ended without a commit",
        f"  ended    tests/test_persisted.py:{line('persisted-close')} in test_what_was_closed_without_a_commit_fails",
        f"  written  tests/test_persisted.py:{line('persisted-lost')} in test_what_was_closed_without_a_commit_fails",
    ]


def test_what_was_rolled_back_fails(shop: Engine, sessionwatch_persisted: Persisted) -> None:
    """A rollback is told as one."""
    with Session(shop) as session:
        session.add(Order(id=5))
        session.flush()
        session.rollback()
    with pytest.raises(AssertionError, match="the Order was written, but its session rolled back"):
        sessionwatch_persisted(Order, 5)


def test_what_was_never_written_fails(shop: Engine, sessionwatch_persisted: Persisted) -> None:
    """Without a flush, without a session, and without anybody who wrote it."""
    with pytest.raises(AssertionError, match="it was never written, or rolled back"):
        sessionwatch_persisted(Order())
    with Session(shop) as session:
        order = Order()
        session.add(order)
        with pytest.raises(AssertionError, match="it was added to a session, but never flushed"):
            sessionwatch_persisted(order)
    with pytest.raises(AssertionError, match="the Order is not in the database: no session of this test wrote it"):
        sessionwatch_persisted(Order, 77, bind=shop)


def test_a_statement_that_is_not_committed_fails(sessionwatch_persisted: Persisted) -> None:
    """insert() counts as a write of its class where the connection is shared."""
    engine = create_engine("sqlite://")
    models.create(engine)
    with Session(engine) as session:
        session.execute(insert(Order).values(id=3, status="new"))
        with pytest.raises(AssertionError, match="the Order was written, but its session has not committed yet"):
            sessionwatch_persisted(Order, 3)
        session.execute(insert(order_tags).values(order_id=3, tag_id=3))
        session.commit()
    assert sessionwatch_persisted(Order, 3).status == "new"


def test_another_sessions_work_does_not_matter(shop: Engine, sessionwatch_persisted: Persisted) -> None:
    """A committed row is there, whatever else is under way."""
    with Session(shop) as session:
        order = Order(id=1)
        session.add(order)
        session.commit()
        session.add(Order(id=2))
        session.flush()
        assert sessionwatch_persisted(Order, 1, bind=shop).id == 1
        session.rollback()


@pytest.fixture
def joined(shop: Engine) -> Iterator[Connection]:
    """A connection whose transaction the test rolls back: SQLAlchemy's recipe for test suites."""
    if shop.dialect.name == "sqlite":

        @event.listens_for(shop, "connect")
        def begin_by_hand(connection: Any, record: object) -> None:
            connection.isolation_level = None

        event.listen(shop, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        shop.dispose()
        models.create(shop)
    with shop.connect() as connection:
        transaction = connection.begin()
        yield connection
        transaction.rollback()


def test_the_savepoint_recipe(joined: Connection, sessionwatch_persisted: Persisted) -> None:
    """Inside of the test's own transaction a row counts once the session has committed it."""
    with Session(joined, join_transaction_mode="create_savepoint") as session:
        order = Order(status="sent")
        session.add(order)
        session.flush()
        with pytest.raises(AssertionError, match="its session has not committed yet"):
            sessionwatch_persisted(order)
        session.commit()
        assert sessionwatch_persisted(order).status == "sent"
        number = order.id
    assert sessionwatch_persisted(Order, number).status == "sent"
    assert joined.in_transaction()


def test_where_to_look(shop: Engine, sessionwatch_persisted: Persisted) -> None:
    """An engine, a connection, a session and both makers are taken; without any and without a hint it asks."""
    with pytest.raises(TypeError, match="no session has been used in this test so far: say where to look"):
        sessionwatch_persisted(Order, 1)
    maker = sessionmaker(shop)
    with maker.begin() as session:
        session.add(Order(id=1))
    with shop.connect() as connection, maker() as session:
        for bind in (shop, connection, session, maker, scoped_session(maker)):
            assert sessionwatch_persisted(Order, 1, bind=bind).id == 1
    other = create_engine("sqlite://")
    models.create(other)
    with Session(other) as session:
        session.get(Order, 1)
    with pytest.raises(TypeError, match="2 databases were used in this test so far"):
        sessionwatch_persisted(Order, 1)
    with pytest.raises(TypeError, match="bind takes an engine, a connection, a session or a sessionmaker, not str"):
        sessionwatch_persisted(Order, 1, bind="sqlite://")
    with pytest.raises(TypeError, match=r"which one\? sessionwatch_persisted\(Order, key\)"):
        sessionwatch_persisted(Order)
    with pytest.raises(TypeError, match="int is no instance of a mapped class"):
        sessionwatch_persisted(1)
    with pytest.raises(TypeError, match=r"tuple is no instance of a mapped class: call sessionwatch_persisted\(Mapped"):
        sessionwatch_persisted((Order, 1))


async def test_asyncio_is_awaited(async_shop: AsyncEngine, sessionwatch_persisted: Persisted) -> None:
    """With an asyncio engine the same call is awaited, and fails or not as the sync one does."""
    async with AsyncSession(async_shop, expire_on_commit=False) as session:
        order = Order(status="sent")
        session.add(order)
        await session.flush()
        with pytest.raises(AssertionError, match="its session has not committed yet"):
            await sessionwatch_persisted(order)
        await session.commit()
        assert (await sessionwatch_persisted(order)).status == "sent"
    for bind in (None, async_shop, async_sessionmaker(async_shop)):
        assert (await sessionwatch_persisted(Order, order.id, bind=bind)).status == "sent"
    assert is_idle(async_shop)


@pytest.fixture
async def async_joined(async_shop: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with async_shop.connect() as connection:
        transaction = await connection.begin()
        yield connection
        await transaction.rollback()


async def test_the_savepoint_recipe_of_asyncio(
    async_joined: AsyncConnection, sessionwatch_persisted: Persisted
) -> None:
    """The same inside of a transaction of the test's own."""
    async with AsyncSession(async_joined, join_transaction_mode="create_savepoint") as session:
        session.add(Order(id=1, status="sent"))
        await session.commit()
    assert (await sessionwatch_persisted(Order, 1)).status == "sent"


def listeners() -> list[Any]:
    """All listeners on sessions."""
    names = [name for name in dir(SessionEvents) if hasattr(Session.dispatch, name) and not name.startswith("_")]
    return [one for name in names for one in getattr(Session.dispatch, name)._clslevel.get(Session, ())]


def test_listeners_are_removed() -> None:
    """After the test nothing listens any more."""
    before = listeners()
    with Persisted().listening():
        assert len(listeners()) == len(before) + 7
    assert listeners() == before
