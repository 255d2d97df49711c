"""``cross-session``: an instance that another open session merged, and that was then changed itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from sessionwatch import FindingError
from sessionwatch.watch.watch import Watch
from tests.rules.models import Customer, Order
from tests.rules.places import is_idle, labels, line, only

RULE = "cross-session"


def change_the_original(engine: Engine, end: Callable[[Session], object] = lambda session: None) -> None:
    with Session(engine) as session, Session(engine) as other:
        order = session.get_one(Order, 1)
        other.merge(order)  # merge
        order.status = "paid"
        other.commit()
        end(session)


def test_reports_an_original_that_nobody_stored(shop: Engine, watch: Watch) -> None:
    """One finding, at the merge; the loss is not told a second time."""
    change_the_original(shop)
    finding = only(watch, RULE)
    assert finding.line == line("merge")
    assert finding.subject == "Order"
    assert finding.message.startswith("Order.status was changed on the original after session S")
    assert finding.fix == "change what merge() returned: order = other.merge(order)"
    assert labels(finding) == ["merged", "opened", "loaded", "opened"]


async def test_reports_it_under_asyncio(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same between two AsyncSessions."""
    async with AsyncSession(async_shop) as session, AsyncSession(async_shop) as other:
        order = await session.get_one(Order, 1)
        await other.merge(order)  # async merge
        order.status = "paid"
        await other.commit()
    finding = only(watch, RULE)
    assert finding.line == line("async merge")
    assert finding.fix.endswith("order = await other.merge(order)")


def test_raises_when_its_session_has_closed(shop: Engine, strict: Watch) -> None:
    """The connection is back by then."""
    with pytest.raises(FindingError, match=RULE):
        change_the_original(shop)
    assert is_idle(shop)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_ignores_an_original_that_its_session_decides_about(shop: Engine, watch: Watch, how: str) -> None:
    """It committed the change, or discarded it on purpose."""
    change_the_original(shop, lambda session: getattr(session, how)())
    assert watch.findings == []


def test_ignores_a_change_of_the_copy(shop: Engine, watch: Watch) -> None:
    """That is what merge() is for."""
    with Session(shop) as session, Session(shop) as other:
        other.merge(session.get_one(Order, 1)).status = "paid"
        other.commit()
    assert watch.findings == []


def test_another_change_is_still_lost(shop: Engine, watch: Watch) -> None:
    """What nobody merged is told as before."""
    with Session(shop) as session, Session(shop) as other:
        order, customer = session.get_one(Order, 1), session.get_one(Customer, 1)
        other.merge(order)
        order.status, customer.name = "paid", "late"
    assert sorted((finding.rule, finding.subject) for finding in watch.findings) == [
        (RULE, "Order"),
        ("lost-writes", "Customer"),
    ]
