"""``lost-writes``: pending objects that were expunged, and are in no session when their unit ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, make_transient

from sessionwatch import FindingError, unit_of_work
from sessionwatch.watch.watch import Watch
from tests.rules.models import Item, Order, Tag
from tests.rules.places import evidence_line, is_idle, labels, line, only

WAYS: dict[str, Callable[[Session, Tag], object]] = {
    "expunge": lambda session, tag: session.expunge(tag),
    "expunge_all": lambda session, tag: session.expunge_all(),
}


@pytest.mark.parametrize("way", WAYS)
def test_reports_what_was_thrown_out(shop: Engine, watch: Watch, way: str) -> None:
    """Told when the unit ends."""
    with unit_of_work("import"), Session(shop) as session:
        tag = Tag(name="late")
        session.add(tag)  # added-here
        WAYS[way](session, tag)
        session.commit()
    finding = only(watch, "lost-writes")
    assert finding.message == "1 Tag object was added, but expunged before a flush, and in no session since"
    assert labels(finding) == ["expunged", "added", "opened"]
    assert evidence_line(finding, "added") == line("added-here")


def test_reports_objects_that_nobody_kept(shop: Engine, watch: Watch) -> None:
    """Without a unit, at the end of the test or of the program."""
    with Session(shop) as session:
        session.add_all([Tag(name="a"), Tag(name="b")])
        session.expunge_all()
        session.commit()
    watch.drain()
    assert only(watch, "lost-writes").message.startswith("2 Tag objects were added, but expunged")


async def test_reports_an_async_session(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio."""
    async with unit_of_work("import"), AsyncSession(async_shop) as session:
        session.add(Tag(name="late"))
        session.expunge_all()
    finding = only(watch, "lost-writes")
    assert finding.fix == "flush it before: await session.flush(), or add it again"


@pytest.mark.parametrize("way", WAYS)
def test_ignores_what_another_session_took(shop: Engine, watch: Watch, way: str) -> None:
    """It was handed on."""
    with unit_of_work("import", sessions="many"):
        with Session(shop) as session:
            tag = Tag(name="late")
            session.add(tag)
            WAYS[way](session, tag)
        with Session(shop) as session, session.begin():
            session.add(tag)
    assert watch.findings == []


def test_ignores_what_was_merged(shop: Engine, watch: Watch) -> None:
    """Its copy is stored."""
    with unit_of_work("import"):
        with Session(shop) as session:
            tag = Tag(name="late")
            session.add(tag)
            session.expunge(tag)
        with Session(shop) as session, session.begin():
            session.merge(tag)
    assert watch.findings == []


def test_ignores_what_was_flushed(shop: Engine, watch: Watch) -> None:
    """A batch that was flushed is in the database, whatever the session lets go of."""
    with unit_of_work("import"), Session(shop) as session:
        for _ in range(3):
            session.add(Tag(name="late"))
            session.flush()
            session.expunge_all()
        session.commit()
    assert watch.findings == []


def test_ignores_what_was_loaded(shop: Engine, watch: Watch) -> None:
    """Only what is pending is lost."""
    with unit_of_work("report"), Session(shop) as session:
        session.expunge(session.get_one(Order, 1))
    assert watch.findings == []


def test_ignores_what_was_made_transient(shop: Engine, watch: Watch) -> None:
    """``make_transient()`` says what is meant."""
    with unit_of_work("import"), Session(shop) as session:
        tag = Tag(name="late")
        session.add(tag)
        make_transient(tag)
    assert watch.findings == []


def test_ignores_an_orphan(shop: Engine, watch: Watch) -> None:
    """SQLAlchemy itself expunges a pending child that left its parent."""
    with unit_of_work("import"), Session(shop) as session:
        order = session.get_one(Order, 1)
        item = Item(name="washer")
        order.items.append(item)
        order.items.remove(item)
        session.rollback()
    assert watch.findings == []


def test_raises_at_the_units_end_in_strict_mode(shop: Engine, strict: Watch) -> None:
    """The pool is idle by then."""

    def work() -> None:
        with unit_of_work("import"), Session(shop) as session:
            session.add(Tag(name="late"))
            session.expunge_all()

    with pytest.raises(FindingError):
        work()
    assert is_idle(shop)
    only(strict, "lost-writes")
    strict.clear()
