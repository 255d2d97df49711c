"""``n-plus-one``: collections that a program asks by a query of their own, ``lazy="dynamic"`` and ``write_only``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    DynamicMapped,
    Mapped,
    Session,
    WriteOnlyMapped,
    mapped_column,
    relationship,
)

from sessionwatch.watch.watch import Watch
from tests.rules.places import line, only


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    posts: DynamicMapped[Post] = relationship(order_by="Post.id")
    notes: WriteOnlyMapped[Note] = relationship(order_by="Note.id")


class Post(Base):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Engine]:
    """Six authors with two posts and a note each."""
    engine = create_engine(f"sqlite:///{tmp_path / 'library.db'}")
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all([Author(posts=[Post(), Post()], notes=[Note()]) for _ in range(6)])
    yield engine
    engine.dispose()


READS: dict[str, Callable[[Session, Author], Any]] = {
    "all": lambda session, author: author.posts.all(),
    "iteration": lambda session, author: list(author.posts),
    "count": lambda session, author: author.posts.count(),
    "index": lambda session, author: author.posts[0],
    "filter": lambda session, author: author.posts.filter(Post.id > 0).all(),
    "select": lambda session, author: session.scalars(author.notes.select()).all(),
}


@pytest.mark.parametrize("read", READS)
def test_reports_a_collection_that_is_asked_in_a_loop(library: Engine, watch: Watch, read: str) -> None:
    """One query for each parent, by each way to ask."""
    with Session(library) as session:
        for author in session.scalars(select(Author)).all():
            READS[read](session, author)
    finding = only(watch, "n-plus-one")
    name, target = ("notes", "Note") if read == "select" else ("posts", "Post")
    assert (finding.subject, finding.count) == (f"Author.{name}", 6)
    assert finding.fix == (
        f"ask once for all of them: session.execute(select(Author.id, {target}).join(Author.{name})"
        ".where(Author.id.in_(ids)))"
    )


def test_reports_the_line(library: Engine, watch: Watch) -> None:
    """The line that asks is the primary place."""
    with Session(library) as session:
        for author in session.scalars(select(Author)).all():
            author.posts.all()  # asks
    assert only(watch, "n-plus-one").line == line("asks")


async def test_reports_an_async_session(library: Engine, tmp_path: Path, watch: Watch) -> None:
    """The same under asyncio, with what has to be awaited."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'library.db'}")
    async with AsyncSession(engine) as session:
        for author in (await session.scalars(select(Author))).all():
            (await session.scalars(author.notes.select())).all()
    assert "await session.execute(select(Author.id, Note)" in only(watch, "n-plus-one").fix
    await engine.dispose()


def test_the_fix_brings_the_same_rows(library: Engine, watch: Watch) -> None:
    """What is printed is one query, and no finding."""
    with Session(library) as session:
        ids = [author.id for author in session.scalars(select(Author))]
        rows = session.execute(select(Author.id, Post).join(Author.posts).where(Author.id.in_(ids))).all()
        assert len(rows) == 12
    assert watch.findings == []


def test_ignores_few_parents(library: Engine, watch: Watch) -> None:
    """As many as the threshold allows."""
    with Session(library) as session:
        for author in session.scalars(select(Author).limit(4)).all():
            author.posts.all()
    assert watch.findings == []


def test_ignores_one_parent_that_is_asked_again(library: Engine, watch: Watch) -> None:
    """Pages of one collection."""
    with Session(library) as session:
        author = session.scalars(select(Author).limit(1)).one()
        for page in range(8):
            author.posts.offset(page).limit(1).all()
    assert watch.findings == []


def test_ignores_parents_of_different_queries(library: Engine, watch: Watch) -> None:
    """A worker that looks at one after another."""
    for number in range(1, 7):
        with Session(library) as session:
            session.get_one(Author, number).posts.all()
    assert watch.findings == []


def test_ignores_what_is_added(library: Engine, watch: Watch) -> None:
    """A write to such a collection asks nothing."""
    with Session(library) as session, session.begin():
        for author in session.scalars(select(Author)).all():
            author.posts.append(Post())
            author.notes.add(Note())
    assert watch.findings == []


def test_strict_raises_before_the_query(library: Engine, strict: Watch) -> None:
    """It is advice: strict mode goes on."""
    with Session(library) as session:
        assert [author.posts.count() for author in session.scalars(select(Author))] == [2] * 6
    only(strict, "n-plus-one")
    strict.clear()
