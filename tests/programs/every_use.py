"""A small host program that uses SQLAlchemy rightly and wrongly, a step at a time; for tests of what it sees.

``outcomes(uses)`` runs the steps and says what each of them returned or raised. As a program it prints that as JSON,
bare and in each mode, with the status and the rules that reported.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import JSON, ForeignKey, create_engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker
from sqlalchemy.pool import StaticPool


class Base(DeclarativeBase):
    """The base of both classes."""


class Shelf(Base):
    """What holds books."""

    __tablename__ = "shelves"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    labels: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    books: Mapped[list[Book]] = relationship(back_populates="shelf")


class Book(Base):
    """What stands on a shelf."""

    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    note: Mapped[str | None] = mapped_column(deferred=True)
    shelf_id: Mapped[int] = mapped_column(ForeignKey("shelves.id"))
    shelf: Mapped[Shelf] = relationship(back_populates="books")


def made() -> sessionmaker[Session]:
    """A database with six shelves of two books each."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    with maker() as session, session.begin():
        for number in range(6):
            books = [Book(title=f"{number}{letter}") for letter in "ab"]
            session.add(Shelf(name=f"shelf {number}", labels={"n": number}, books=books))
    return maker


# -- right ---------------------------------------------------------------------------------------------


def writes(maker: sessionmaker[Session]) -> Any:
    with maker() as session, session.begin():
        shelf = session.get_one(Shelf, 1)
        shelf.name = "first"
        shelf.books.append(Book(title="new"))
        with session.begin_nested():
            session.execute(text("UPDATE books SET note = 'x'"))
        session.delete(session.get_one(Shelf, 6).books[0])
    with maker() as session:
        return session.scalars(select(Book.title).order_by(Book.title)).all()


def rolls_back(maker: sessionmaker[Session]) -> Any:
    with maker() as session:
        session.add(Shelf(name="shelf 7"))
        session.flush()
        savepoint = session.begin_nested()
        session.add(Shelf(name="shelf 8"))
        savepoint.rollback()
        session.rollback()
        return session.query(Shelf).count()


def merges(maker: sessionmaker[Session]) -> Any:
    with maker() as session:
        shelf = session.get_one(Shelf, 2)
        session.expunge(shelf)
        shelf.name = "second"
        merged = session.merge(shelf)
        session.refresh(merged, ["labels"])
        session.commit()
        session.expire_all()
        return merged.name, merged.labels, [book.title for book in merged.books], merged.books[0].note


def raises(maker: sessionmaker[Session]) -> Any:
    with maker() as session, session.begin():
        session.add(Shelf(name="shelf 3"))


# -- wrong ---------------------------------------------------------------------------------------------


def loses(maker: sessionmaker[Session]) -> Any:
    session = maker()
    session.add(Shelf(name="lost"))
    session.flush()
    session.close()


def loses_what_waits(maker: sessionmaker[Session]) -> Any:
    session = maker()
    session.get_one(Shelf, 1).name = "never flushed"
    session.add(Shelf(name="never flushed either"))
    session.close()


def leaks(maker: sessionmaker[Session]) -> Any:
    engine = create_engine("sqlite://")
    session = Session(engine)
    session.execute(text("SELECT 1"))
    session = None  # type: ignore[assignment]
    gc.collect()


def keeps_using(maker: sessionmaker[Session]) -> Any:
    with maker() as session:
        session.get_one(Shelf, 1)
    return session.get_one(Shelf, 2).name


def reads_detached(maker: sessionmaker[Session]) -> Any:
    with maker() as session:
        shelf = session.get_one(Shelf, 3)
    return shelf.name, shelf.books


def writes_detached(maker: sessionmaker[Session]) -> Any:
    with maker() as session:
        shelf = session.get_one(Shelf, 3)
    shelf.name = "nobody saves it"
    return shelf.name


def loads_one_by_one(maker: sessionmaker[Session]) -> Any:
    with maker() as session:
        return [len(shelf.books) for shelf in session.scalars(select(Shelf))]


def goes_on(maker: sessionmaker[Session]) -> Any:
    with maker() as session:
        session.execute(text("UPDATE books SET note = 'y'"))
        with suppress(DBAPIError):
            session.execute(text("INSERT INTO shelves (id, name) VALUES (1, 'again')"))
        session.commit()


def gives_away(maker: sessionmaker[Session]) -> Any:
    with maker() as first, maker() as second:
        second.add(first.get_one(Shelf, 4))


def puts_old_over_new(maker: sessionmaker[Session]) -> Any:
    with maker() as session:
        old = session.get_one(Shelf, 5)
    with maker() as session, session.begin():
        session.get_one(Shelf, 5).name = "newer"
    with maker() as session, session.begin():
        return session.merge(old).name


def changes_in_place(maker: sessionmaker[Session]) -> Any:
    with maker() as session, session.begin():
        shelf = session.get_one(Shelf, 4)
        shelf.labels["more"] = True  # type: ignore[index]


def commits_twice(maker: sessionmaker[Session]) -> Any:
    for name in ("a part", "the other part"):
        with _one(maker) as session, session.begin():
            session.add(Shelf(name=name))


def _one(maker: sessionmaker[Session]) -> Session:
    return maker()


def stalls_a_loop(maker: sessionmaker[Session]) -> Any:
    def slow(seconds: float) -> int:
        time.sleep(seconds)
        return 1

    async def main() -> None:
        with maker() as session:
            session.connection().connection.dbapi_connection.create_function("slow", 1, slow)  # type: ignore[union-attr]
            session.execute(text("SELECT slow(0.12)"))

    asyncio.run(main())


def queries_without_flushing(maker: sessionmaker[Session]) -> Any:
    with maker(autoflush=False) as session:
        session.add(Shelf(name="not there yet"))
        found = session.scalars(select(Shelf).where(Shelf.name == "not there yet")).all()
        session.rollback()
        return found


RIGHT: tuple[Callable[[Any], Any], ...] = (writes, rolls_back, merges, raises)
WRONG: tuple[Callable[[Any], Any], ...] = (
    loses, loses_what_waits, leaks, keeps_using, reads_detached, writes_detached, loads_one_by_one, goes_on, gives_away,
    puts_old_over_new, changes_in_place, commits_twice, stalls_a_loop, queries_without_flushing,
)  # fmt: skip
SETTINGS: dict[str, Any] = {
    "rules": {"detached-touch": "log", "untracked-mutation": "log"},  # strict mode only, else
    "settings": {"blocking-io.milliseconds": 50},
}
REPORTED = {
    "lost-writes", "session-leak", "use-after-close", "detached-access", "detached-touch", "detached-write", "config",
    "n-plus-one", "swallowed-error", "cross-session", "reattach", "untracked-mutation", "split-unit-of-work",
    "blocking-io",
}  # fmt: skip
"""The rules that report the wrong ones in mode ``log``, with those settings."""


def outcomes(uses: tuple[Callable[[Any], Any], ...]) -> Iterator[tuple[str, str]]:
    """Each use with what it returned or raised, on a database of its own."""
    for use in uses:
        maker = made()
        try:
            came = repr(use(maker))
        except Exception as error:
            came = f"{type(error).__name__}: {error}"
        yield use.__name__, re.sub(r"0x\w+|session '\d+'|this is '\d+'", "...", came)
        maker.kw["bind"].dispose()


def main() -> None:
    """Print what the program sees bare and in each mode, and what sessionwatch says of it and of itself."""
    told: dict[str, Any] = {"bare": list(outcomes(RIGHT + WRONG))}
    import sessionwatch

    for mode, uses, options in (("log", RIGHT + WRONG, SETTINGS), ("strict", RIGHT, {}), ("telemetry", RIGHT, {})):
        with sessionwatch.watching(mode, log=False, **options) as watch:
            seen = list(outcomes(uses))
            reported = sorted({finding.rule for finding in watch.findings})
            told[mode] = {"outcomes": seen, "status": watch.status(), "reported": reported}
    json.dump(told, sys.stdout, default=str)


if __name__ == "__main__":
    main()
