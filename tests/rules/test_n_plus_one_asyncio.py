"""The rule ``n-plus-one`` under asyncio: awaited attributes, sync code inside ``run_sync``, loops of ``get()``."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, selectinload

import sessionwatch
from sessionwatch import FindingError
from sessionwatch.watch.watch import Watch
from tests.models import Book, Shelf, create
from tests.rules.places import evidence_line, is_idle, line, only

RULE = "n-plus-one"
ROWS = 7


@pytest.fixture
async def library(async_engine: AsyncEngine) -> AsyncEngine:
    """Seven shelves with two books each."""
    async with async_engine.begin() as connection:
        await connection.run_sync(create, Shelf, Book)
    async with AsyncSession(async_engine) as session:
        session.add_all(Shelf(books=[Book(), Book()]) for _ in range(ROWS))
        await session.commit()
    return async_engine


async def read_all(engine: AsyncEngine) -> None:
    """One query for the shelves, and one for each of them."""
    async with AsyncSession(engine) as session:
        for shelf in (await session.scalars(select(Shelf))).all():
            await shelf.awaitable_attrs.books


async def test_reports_awaited_attributes(watch: Watch, library: AsyncEngine) -> None:
    """Awaiting a collection of one parent after another is as many queries as reading it."""
    async with AsyncSession(library) as session:
        for shelf in (await session.scalars(select(Shelf))).all():  # shelves
            await shelf.awaitable_attrs.books  # awaited
    finding = only(watch, RULE)
    assert (finding.subject, finding.line, finding.count) == ("Shelf.books", line("awaited"), ROWS)
    assert finding.fix == "load it with the query: .options(selectinload(Shelf.books))"
    assert evidence_line(finding, "loaded") == line("shelves")


async def test_reports_a_loop_inside_run_sync(watch: Watch, library: AsyncEngine) -> None:
    """Sync code that runs in SQLAlchemy's greenlet is pointed at, not the line that called run_sync."""

    def count(session: Session) -> int:
        return sum(len(shelf.books) for shelf in session.scalars(select(Shelf)))  # counted

    async with AsyncSession(library) as session:
        await session.run_sync(count)
    finding = only(watch, RULE)
    assert (finding.subject, finding.line) == ("Shelf.books", line("counted"))


async def test_reports_a_loop_of_get(watch: Watch, library: AsyncEngine) -> None:
    """A loop of ``await session.get()`` is one query for each object."""
    async with AsyncSession(library) as session:
        for key in range(1, ROWS + 1):
            await session.get(Shelf, key)  # got
    assert only(watch, RULE).line == line("got")


async def test_reports_in_a_scoped_session(watch: Watch, library: AsyncEngine) -> None:
    """The registry in front of the session changes nothing."""
    registry = async_scoped_session(async_sessionmaker(library, expire_on_commit=False), scopefunc=lambda: 1)
    for shelf in (await registry.scalars(select(Shelf))).all():
        await shelf.awaitable_attrs.books  # scoped
    await registry.remove()
    assert only(watch, RULE).line == line("scoped")


async def test_reports_a_stream(watch: Watch, library: AsyncEngine) -> None:
    """Parents that arrive one by one are loaded from one by one as well."""
    async with AsyncSession(library) as session:
        shelves = [shelf async for shelf in await session.stream_scalars(select(Shelf))]
        for shelf in shelves:
            await shelf.awaitable_attrs.books  # streamed
    assert only(watch, RULE).line == line("streamed")


async def test_strict_raises_before_the_second_load(library: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the rule is set to raise, the program is stopped before the load, and the pool is idle afterwards."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with sessionwatch.watching("strict", rules={RULE: "raise"}, log=False):
        with pytest.raises(FindingError, match=r"Shelf\.books"):
            await read_all(library)
        assert is_idle(library)


@pytest.mark.parametrize("kind", ["eager", "once", "same", "separate", "few"])
async def test_ignores(watch: Watch, library: AsyncEngine, kind: str) -> None:
    """Eager loads, one parent, the same parent again, a session for each parent, fewer than the threshold."""
    options: dict[str, Any] = {"eager": [selectinload(Shelf.books)]}
    query = select(Shelf).order_by(Shelf.id).options(*options.get(kind, ()))
    if kind == "separate":
        for key in range(1, ROWS + 1):
            async with AsyncSession(library) as session:
                shelf = (await session.scalars(query.where(Shelf.id == key))).one()
                await shelf.awaitable_attrs.books
    else:
        async with AsyncSession(library) as session:
            shelves = (await session.scalars(query)).all()
            chosen = {"once": shelves[:1], "same": [shelves[0]] * ROWS, "few": shelves[:4]}.get(kind, shelves)
            for shelf in chosen:
                await shelf.awaitable_attrs.books
    assert watch.findings == []
