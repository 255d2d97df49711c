"""``lost-writes`` of sessions that are dropped, and of transactions that somebody ended on the connection."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from sessionwatch.watch.watch import Watch
from tests.rules.models import Order

LOST = "lost-writes"


def rules(watch: Watch) -> list[str]:
    gc.collect()
    return [finding.rule for finding in watch.findings]


def kept(session: Session) -> Any:
    order = session.get_one(Order, 1)
    order.status = "changed"
    return order


def alone(session: Session) -> Any:
    session.get_one(Order, 1).status = "changed"


def local(session: Session) -> Any:
    order = session.get_one(Order, 1)
    order.status = "changed"


@pytest.mark.parametrize("change", [kept, alone, local], ids=lambda change: change.__name__)
def test_reports_a_change_that_was_never_flushed(change: Callable[[Session], Any], watch: Watch, shop: Engine) -> None:
    """It does not matter who else holds the object when the session is dropped."""
    held = change(Session(shop))
    assert LOST in rules(watch)
    del held


def test_ignores_a_change_without_effect(watch: Watch, shop: Engine) -> None:
    """A value that was set to what it was, in a session that is dropped."""

    def work() -> None:
        order = Session(shop).get_one(Order, 1)
        order.status = str(order.status)

    work()
    assert LOST not in rules(watch)


LETTING_GO: dict[str, Callable[[Session, Order], object]] = {
    "expunge": lambda session, order: session.expunge(order),
    "expunge_all": lambda session, order: session.expunge_all(),
    "delete": lambda session, order: (session.delete(session.get_one(Order, 2)), session.flush()),
}


@pytest.mark.parametrize("how", LETTING_GO)
def test_reports_a_dropped_session_whose_object_lives(how: str, watch: Watch, shop: Engine) -> None:
    """An object that the session let go of does not keep the session's record alive."""
    with Session(shop) as session, session.begin():
        session.add(Order(id=2, status="x"))

    def work() -> Order:
        session = Session(shop)
        order = session.get_one(Order, 1)
        session.execute(text("UPDATE orders SET status = 'y'"))
        LETTING_GO[how](session, order)
        return order

    order = work()
    assert set(rules(watch)) == {LOST, "session-leak"}
    assert order is not None


def write(session: Session) -> None:
    session.execute(insert(Order).values(status="x"))


def test_reports_a_write_after_a_commit_on_the_connection(watch: Watch, shop: Engine) -> None:
    """The session's own transaction is over; the connection has begun another one by itself."""
    with Session(shop) as session:
        write(session)
        session.connection().commit()
        write(session)
    assert rules(watch) == [LOST]
    assert watch.findings[0].message.startswith("1 row of orders was inserted")


def test_ignores_a_commit_that_is_refused_after_it(watch: Watch, shop: Engine) -> None:
    """SQLAlchemy says itself that the session can't commit what the connection has begun."""
    with Session(shop) as session:
        session.connection().commit()
        write(session)
        with pytest.raises(InvalidRequestError):
            session.commit()
    assert rules(watch) == []


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("dropped", [True, False], ids=["dropped", "closed"])
def test_ignores_what_was_ended_on_the_connection(end: str, dropped: bool, watch: Watch, shop: Engine) -> None:
    """A commit or rollback on the connection decides about what was written; a leak is another matter."""

    def work() -> None:
        session = Session(shop)
        write(session)
        getattr(session.connection(), end)()
        if not dropped:
            session.close()

    work()
    assert LOST not in rules(watch)


async def test_ignores_what_was_committed_on_an_async_connection(watch: Watch, async_shop: AsyncEngine) -> None:
    """The same under asyncio."""
    async with AsyncSession(async_shop) as session:
        await session.execute(insert(Order).values(status="x"))
        await (await session.connection()).commit()
    assert rules(watch) == []


def test_a_bulk_update_of_no_row_is_no_error_of_ours(watch: Watch, shop: Engine) -> None:
    """SQLAlchemy's error about a bulk update has no instances to ask about."""
    with Session(shop) as session:
        with pytest.raises(StaleDataError):
            session.bulk_update_mappings(Order, [{"id": 99, "status": "x"}])  # type: ignore[arg-type]
        session.rollback()
    assert watch.status()["internal_errors"] == {}
