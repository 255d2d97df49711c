"""``n-plus-one``: collections that a program asks by a query of their own, ``lazy="dynamic"`` and ``write_only``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sessionwatch.watch.watch import Watch
from tests.models import Book, Shelf, create
from tests.rules.places import line, only


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Engine]:
    """Six shelves with two books each."""
    engine = create_engine(f"sqlite:///{tmp_path / 'library.db'}")
    create(engine, Shelf, Book)
    with Session(engine) as session, session.begin():
        session.add_all([Shelf(lent=[Book(), Book()]) for _ in range(6)])
    yield engine
    engine.dispose()


READS: dict[str, Callable[[Session, Shelf], Any]] = {
    "all": lambda session, shelf: shelf.lent.all(),
    "iteration": lambda session, shelf: list(shelf.lent),
    "count": lambda session, shelf: shelf.lent.count(),
    "index": lambda session, shelf: shelf.lent[0],
    "filter": lambda session, shelf: shelf.lent.filter(Book.id > 0).all(),
    "select": lambda session, shelf: session.scalars(shelf.archive.select()).all(),
}


@pytest.mark.parametrize("read", READS)
def test_reports_a_collection_that_is_asked_in_a_loop(library: Engine, watch: Watch, read: str) -> None:
    """One query for each parent, by each way to ask."""
    with Session(library) as session:
        for shelf in session.scalars(select(Shelf)).all():
            READS[read](session, shelf)
    finding = only(watch, "n-plus-one")
    name = "archive" if read == "select" else "lent"
    assert (finding.subject, finding.count) == (f"Shelf.{name}", 6)
    assert finding.fix == (
        f"ask once for all of them: session.execute(select(Shelf.id, Book).join(Shelf.{name}).where(Shelf.id.in_(ids)))"
    )


def test_reports_the_line(library: Engine, watch: Watch) -> None:
    """The line that asks is the primary place."""
    with Session(library) as session:
        for shelf in session.scalars(select(Shelf)).all():
            shelf.lent.all()  # asks
    assert only(watch, "n-plus-one").line == line("asks")


async def test_reports_an_async_session(library: Engine, tmp_path: Path, watch: Watch) -> None:
    """The same under asyncio, with what has to be awaited."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'library.db'}")
    async with AsyncSession(engine) as session:
        for shelf in (await session.scalars(select(Shelf))).all():
            (await session.scalars(shelf.archive.select())).all()
    assert "await session.execute(select(Shelf.id, Book)" in only(watch, "n-plus-one").fix
    await engine.dispose()


def test_the_fix_brings_the_same_rows(library: Engine, watch: Watch) -> None:
    """What is printed is one query, and no finding."""
    with Session(library) as session:
        ids = [shelf.id for shelf in session.scalars(select(Shelf))]
        rows = session.execute(select(Shelf.id, Book).join(Shelf.lent).where(Shelf.id.in_(ids))).all()
        assert len(rows) == 12
    assert watch.findings == []


def test_ignores_few_parents(library: Engine, watch: Watch) -> None:
    """As many as the threshold allows."""
    with Session(library) as session:
        for shelf in session.scalars(select(Shelf).limit(4)).all():
            shelf.lent.all()
    assert watch.findings == []


def test_ignores_one_parent_that_is_asked_again(library: Engine, watch: Watch) -> None:
    """Pages of one collection."""
    with Session(library) as session:
        shelf = session.scalars(select(Shelf).limit(1)).one()
        for page in range(8):
            shelf.lent.offset(page).limit(1).all()
    assert watch.findings == []


def test_ignores_parents_of_different_queries(library: Engine, watch: Watch) -> None:
    """A worker that looks at one after another."""
    for number in range(1, 7):
        with Session(library) as session:
            session.get_one(Shelf, number).lent.all()
    assert watch.findings == []


def test_ignores_what_is_added(library: Engine, watch: Watch) -> None:
    """A write to such a collection asks nothing."""
    with Session(library) as session, session.begin():
        for shelf in session.scalars(select(Shelf)).all():
            shelf.lent.append(Book())
            shelf.archive.add(Book())
    assert watch.findings == []


def test_strict_raises_before_the_query(library: Engine, strict: Watch) -> None:
    """It is advice: strict mode goes on."""
    with Session(library) as session:
        assert [shelf.lent.count() for shelf in session.scalars(select(Shelf))] == [2] * 6
    only(strict, "n-plus-one")
    strict.clear()
