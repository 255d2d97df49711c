"""``cross-session``: what a session refuses to do with an instance of another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import InvalidRequestError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from sessionwatch.watch.watch import Watch
from tests.rules.models import Item, Order
from tests.rules.places import is_idle, line, only

REFUSED: dict[str, Callable[[Session, Order], object]] = {
    "was refreshed by": lambda session, order: session.refresh(order),
    "was expired by": lambda session, order: session.expire(order),
    "was given to": lambda session, order: session.delete(order),
}


@pytest.mark.parametrize("what", REFUSED)
def test_reports_what_another_session_does_with_an_instance(shop: Engine, watch: Watch, what: str) -> None:
    """SQLAlchemy's error gets the story: whose it is, and who asked."""
    with Session(shop) as session, Session(shop) as other:
        order = session.get_one(Order, 1)
        with pytest.raises(InvalidRequestError) as raised:
            REFUSED[what](other, order)
    finding = only(watch, "cross-session")
    assert f", which is open, and {what} session S" in finding.message
    assert "cross-session" in "".join(raised.value.__notes__)


def test_reports_a_pending_instance_as_a_parameter(shop: Engine, watch: Watch) -> None:
    """The other session can't flush it, so that it has no key."""
    with Session(shop) as session, Session(shop) as other:
        order = Order()
        session.add(order)
        with pytest.raises((InvalidRequestError, StatementError)):
            other.scalars(select(Item).where(Item.order == order)).all()  # asks
        session.rollback()
    finding = only(watch, "cross-session")
    assert "has no key yet, but is asked for in session S" in finding.message
    assert finding.line == line("asks")


async def test_reports_an_async_refresh(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio."""
    async with AsyncSession(async_shop) as session, AsyncSession(async_shop) as other:
        order = await session.get_one(Order, 1)
        with pytest.raises(InvalidRequestError):
            await other.refresh(order)
    assert "was refreshed by session S" in only(watch, "cross-session").message


@pytest.mark.parametrize("what", list(REFUSED)[:2])
def test_ignores_an_instance_of_no_session(shop: Engine, watch: Watch, what: str) -> None:
    """A detached one belongs to nobody."""
    with Session(shop) as session:
        order = session.get_one(Order, 1)
    with Session(shop) as other, pytest.raises(InvalidRequestError):
        REFUSED[what](other, order)
    assert "cross-session" not in [finding.rule for finding in watch.findings]


def test_ignores_a_stored_instance_as_a_parameter(shop: Engine, watch: Watch) -> None:
    """Reading its key to build a query is right, also in another session."""
    with Session(shop) as session, Session(shop) as other:
        order = session.get_one(Order, 1)
        assert other.scalars(select(Item).where(Item.order == order)).all()
    assert watch.findings == []


def test_ignores_a_pending_instance_of_the_same_session(shop: Engine, watch: Watch) -> None:
    """The session flushes it first."""
    with Session(shop) as session:
        order = Order()
        session.add(order)
        assert session.scalars(select(Item).where(Item.order == order)).all() == []
        session.rollback()
    assert watch.findings == []


def test_ignores_an_instance_that_is_pending_in_its_own_session(shop: Engine, watch: Watch) -> None:
    """A session that refuses its own instance is no crossing."""
    with Session(shop) as session:
        order: Any = Order()
        session.add(order)
        with pytest.raises(InvalidRequestError):
            session.refresh(order)
        session.rollback()
    assert watch.findings == []


def test_leaves_the_pool_idle_in_strict_mode(shop: Engine, strict: Watch) -> None:
    """SQLAlchemy's own error is the one that is raised."""
    with Session(shop) as session, Session(shop) as other:
        order = session.get_one(Order, 1)
        with pytest.raises(InvalidRequestError):
            other.refresh(order)
    assert is_idle(shop)
    only(strict, "cross-session")
    strict.clear()
