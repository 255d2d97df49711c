"""Right use of sessions, in more than 60 sessions. A user of sessionwatch must not hear of any of it.

``python right_use.py FOLDER`` runs everything on SQLite files below FOLDER and prints the number of sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from sqlalchemy import Engine, ForeignKey, create_engine, delete, event, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncAttrs,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    close_all_sessions,
    joinedload,
    make_transient,
    make_transient_to_detached,
    mapped_column,
    object_session,
    relationship,
    scoped_session,
    selectinload,
    sessionmaker,
    undefer,
)


class Base(AsyncAttrs, DeclarativeBase):
    """The declarative base."""


class Author(Base):
    """Somebody who writes books."""

    __tablename__ = "authors"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    about: Mapped[str | None] = mapped_column(deferred=True)
    books: Mapped[list[Book]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    """A book."""

    __tablename__ = "books"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    pages: Mapped[int] = mapped_column(default=100)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("authors.id"))
    author: Mapped[Author | None] = relationship(back_populates="books")


class Log(Base):
    """A row of another database."""

    __tablename__ = "log"

    id: Mapped[int] = mapped_column(primary_key=True)
    line: Mapped[str]


Factory = sessionmaker[Session]
CASES: list[Any] = []
ASYNC_CASES: list[Any] = []


def right(function: Any) -> Any:
    """Add a function to those that run."""
    (ASYNC_CASES if asyncio.iscoroutinefunction(function) else CASES).append(function)
    return function


def add_author(session: Session, name: str, books: int = 2) -> Author:
    author = Author(name=name, about="writes", books=[Book(title=f"{name} {n}") for n in range(books)])
    session.add(author)
    return author


# -- reading and writing ------------------------------------------------------------------------------


@right
def commits(engine: Engine) -> None:
    with Session(engine) as session:
        add_author(session, "commits")
        session.commit()


@right
def begin_block(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        add_author(session, "begin block")


@right
def maker_begin(engine: Engine) -> None:
    with sessionmaker(engine).begin() as session:
        add_author(session, "maker begin")


@right
def commit_then_read_on(engine: Engine) -> None:
    with Session(engine) as session:
        author = add_author(session, "reads on")
        session.commit()
        assert author.name == "reads on"
        assert len(author.books) == 2


@right
def several_commits(engine: Engine) -> None:
    with Session(engine) as session:
        for n in range(3):
            add_author(session, f"several {n}")
            session.commit()


@right
def reads_without_commit(engine: Engine) -> None:
    for _ in range(3):
        with Session(engine) as session:
            assert session.scalar(select(func.count()).select_from(Author))


@right
def closes_by_hand(engine: Engine) -> None:
    session = Session(engine)
    try:
        session.scalars(select(Book)).all()
    finally:
        session.close()


@right
def never_used(engine: Engine) -> None:
    Session(engine)
    Session(engine).close()
    with Session(engine):
        pass


@right
def closing(engine: Engine) -> None:
    with contextlib.closing(Session(engine)) as session:
        session.scalars(select(Book)).first()


@right
def used_again_after_close_by_hand(engine: Engine) -> None:
    session = Session(engine)
    session.scalars(select(Book)).first()
    session.close()
    session.scalars(select(Book)).first()
    session.close()


@right
def for_update(engine: Engine) -> None:
    with Session(engine) as session:
        session.scalars(select(Author).with_for_update()).first()


@right
def streams(engine: Engine) -> None:
    with Session(engine) as session:
        for part in session.scalars(select(Book).execution_options(yield_per=2)).partitions():
            assert len(part) <= 2


@right
def change_without_a_difference(engine: Engine) -> None:
    with Session(engine) as session:
        author = session.scalars(select(Author)).first()
        assert author is not None
        author.name = author.name
        author.name, author.name = "other", author.name


@right
def refresh_and_expire(engine: Engine) -> None:
    with Session(engine) as session:
        author = session.scalars(select(Author)).first()
        assert author is not None
        session.expire(author)
        assert author.name
        session.refresh(author, ["books"])


@right
def legacy_query(engine: Engine) -> None:
    with Session(engine) as session:
        assert session.query(Author).filter(Author.id > 0).count()
        session.query(Book).filter_by(title="nobody's").update({"pages": 1})
        session.commit()


# -- bulk and Core ------------------------------------------------------------------------------------


@right
def bulk(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.execute(insert(Book), [{"title": f"bulk {n}"} for n in range(50)])
        session.execute(update(Book).where(Book.title == "bulk 1").values(pages=7))
        session.execute(delete(Book).where(Book.title == "bulk 2"))
        session.bulk_save_objects([Book(title="bulk object")])
        session.bulk_insert_mappings(Book, [{"title": "bulk mapping"}])  # type: ignore[arg-type]


@right
def returning(engine: Engine) -> None:
    with Session(engine) as session:
        ids = session.scalars(insert(Book).returning(Book.id), [{"title": "a"}, {"title": "b"}]).all()
        assert len(ids) == 2
        session.commit()


@right
def text_and_connection(engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(text("UPDATE books SET pages = pages + 1"))
        session.connection().exec_driver_sql("DELETE FROM books WHERE title = 'nobody''s'")
        session.commit()


@right
def writes_that_hit_nothing(engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(update(Book).where(Book.id < 0).values(pages=1))
        session.execute(text("DELETE FROM books WHERE id < 0"))


@right
def autocommit(engine: Engine) -> None:
    with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        session.execute(insert(Book).values(title="autocommit"))
        session.add(Book(title="autocommit too"))
        session.flush()


# -- rolling back -------------------------------------------------------------------------------------


@right
def explicit_rollback(engine: Engine) -> None:
    with Session(engine) as session:
        add_author(session, "rolled back")
        session.flush()
        session.rollback()


@right
def rollback_of_what_was_never_flushed(engine: Engine) -> None:
    with Session(engine) as session:
        add_author(session, "rolled back too")
        session.rollback()


@right
def exception_leaves_the_block(engine: Engine) -> None:
    for block in (lambda: Session(engine), lambda: sessionmaker(engine).begin()):
        with contextlib.suppress(ZeroDivisionError), block() as session:
            add_author(session, "never")
            session.flush()
            raise ZeroDivisionError


@right
def exception_and_finally(engine: Engine) -> None:
    session = Session(engine)
    with contextlib.suppress(ZeroDivisionError):
        try:
            session.add(Book(title="never"))
            session.flush()
            raise ZeroDivisionError
        finally:
            session.close()


@right
def rollback_in_the_handler(engine: Engine) -> None:
    session = Session(engine)
    try:
        session.add_all([Author(name="twice"), Author(name="twice")])
        session.commit()
    except IntegrityError:
        session.rollback()
    finally:
        session.close()


@right
def transaction_rollback(engine: Engine) -> None:
    with Session(engine) as session:
        transaction = session.begin()
        session.add(Book(title="never"))
        session.flush()
        transaction.rollback()


# -- savepoints ---------------------------------------------------------------------------------------


@right
def savepoints(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Book(title="outer"))
        with session.begin_nested():
            session.add(Book(title="inner"))
            with session.begin_nested():
                session.add(Book(title="innermost"))
        nested = session.begin_nested()
        session.add(Book(title="dropped"))
        session.flush()
        nested.rollback()


@right
def savepoint_around_what_may_fail(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Author(name="there once"))
        session.flush()
        with contextlib.suppress(IntegrityError), session.begin_nested():
            session.add(Author(name="there once"))
            session.flush()


@right
def savepoint_rolled_back_and_nothing_else(engine: Engine) -> None:
    with Session(engine) as session:
        session.scalars(select(Author)).first()
        nested = session.begin_nested()
        session.add(Book(title="dropped"))
        session.flush()
        nested.rollback()


@contextlib.contextmanager
def test_session(engine: Engine) -> Iterator[Session]:
    """SQLAlchemy's recipe: join a session into an external transaction (such as for test suites)."""
    with engine.connect() as connection:
        outer = connection.begin()
        session = Session(bind=connection, join_transaction_mode="create_savepoint")
        try:
            yield session
        finally:
            session.close()
            outer.rollback()


@right
def pytest_recipe(engine: Engine) -> None:
    for commit in (True, False):
        with test_session(engine) as session:
            session.add(Book(title="in a test"))
            session.flush()
            if commit:
                session.commit()
            session.add(Book(title="in a test, again"))
            session.flush()


@right
def other_ways_to_join(engine: Engine) -> None:
    for how in ("conditional_savepoint", "rollback_only"):
        with engine.connect() as connection:
            outer = connection.begin()
            with Session(bind=connection, join_transaction_mode=how) as session:  # type: ignore[arg-type]
                session.add(Book(title="joined"))
                session.flush()
            if outer.is_active:
                outer.rollback()


@right
def connection_commits(engine: Engine) -> None:
    with engine.begin() as connection, Session(bind=connection) as session:
        session.execute(insert(Book).values(title="the connection commits"))


@right
def committed_behind_its_back(engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(insert(Book).values(title="committed on the connection"))
        session.connection().get_transaction().commit()  # type: ignore[union-attr]


# -- instances ----------------------------------------------------------------------------------------


@right
def response_after_close(engine: Engine) -> None:
    with Session(engine, expire_on_commit=False) as session:
        author = add_author(session, "response")
        session.commit()
    assert {"name": author.name, "books": [book.title for book in author.books]}["books"]


@right
def eager_loads(engine: Engine) -> None:
    with Session(engine) as session:
        found = select(Author).options(selectinload(Author.books).joinedload(Book.author), undefer(Author.about))
        authors = session.scalars(found).all()
    assert [book.author.name for author in authors for book in author.books if book.author]
    assert authors[0].about == "writes"


@right
def merge_without_load(engine: Engine) -> None:
    with Session(engine) as session:
        author = session.scalars(select(Author)).first()
        cached = pickle.dumps(author)
    with Session(engine) as session:
        merged = session.merge(pickle.loads(cached), load=False)
        assert merged.name
        assert session.merge(merged) is merged


@right
def merge_and_commit(engine: Engine) -> None:
    with Session(engine) as session:
        book = session.scalars(select(Book)).first()
    assert book is not None
    book.pages = 321
    with Session(engine) as session:
        session.merge(book)
        session.commit()


@right
def add_again_and_commit(engine: Engine) -> None:
    with Session(engine) as session:
        book = session.scalars(select(Book)).first()
    assert book is not None
    book.pages = 123
    with Session(engine) as session, session.begin():
        session.add(book)


@right
def transient_copy(engine: Engine) -> None:
    with Session(engine) as session:
        book = session.scalars(select(Book)).first()
        assert book is not None
        session.expunge(book)
    make_transient(book)
    book.id = None  # type: ignore[assignment]
    book.title = "a copy"
    with Session(engine) as session, session.begin():
        session.add(book)


@right
def transient_and_kept(engine: Engine) -> None:
    with Session(engine) as session:
        book = session.scalars(select(Book)).first()
        assert book is not None
    make_transient(book)
    book.title = "for display only"


@right
def back_to_detached(engine: Engine) -> None:
    book = Book(id=1)
    make_transient_to_detached(book)
    with Session(engine) as session:
        session.add(book)
        assert book.title


@right
def never_in_a_session(engine: Engine) -> None:
    author = Author(name="not kept")
    author.books.append(Book(title="not kept either"))
    author.books[0].title = "changed"
    assert copy.copy(author.name)
    assert object_session(author) is None


@right
def deletes(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        author = add_author(session, "deleted", books=1)
        session.flush()
        session.delete(author)
    assert author.name == "deleted"


@right
def events_of_the_program(engine: Engine) -> None:
    seen: list[str] = []
    with Session(engine) as session:
        event.listen(session, "before_commit", lambda _: seen.append("before"))
        event.listen(session, "after_commit", lambda _: seen.append("after"))
        session.add(Book(title="heard"))
        session.commit()
    assert seen == ["before", "after"]


# -- scopes -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def unit(engine: Engine) -> Iterator[Session]:
    """Commit at the end, roll back on an error."""
    session = Session(engine)
    try:
        yield session
        session.commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        session.close()


@right
def context_manager(engine: Engine) -> None:
    with unit(engine) as session:
        session.add(Book(title="unit"))
    with contextlib.suppress(ZeroDivisionError), unit(engine) as session:
        session.add(Book(title="never"))
        raise ZeroDivisionError


def get_session(engine: Engine) -> Iterator[Session]:
    """A dependency in the style of FastAPI."""
    with Session(engine) as session:
        yield session


@right
def dependency(engine: Engine) -> None:
    provided = contextlib.contextmanager(get_session)
    for write in (True, False):
        with provided(engine) as session:
            author = session.scalars(select(Author).options(joinedload(Author.books))).unique().first()
            assert author is not None
            if write:
                author.books.append(Book(title="of a request"))
                session.commit()


@right
def dependency_run_by_a_framework(engine: Engine) -> None:
    generator = get_session(engine)
    session = next(generator)
    session.add(Book(title="of another request"))
    session.commit()
    assert next(generator, None) is None


@right
def registry(engine: Engine) -> None:
    sessions = scoped_session(sessionmaker(engine))
    for n in range(3):
        sessions.add(Book(title=f"registry {n}"))
        sessions.commit()
        assert sessions.scalars(select(Book)).first()
        sessions.remove()
    sessions.remove()


@right
def worker_loop(engine: Engine) -> None:
    factory = sessionmaker(engine)
    jobs: SimpleQueue[int | None] = SimpleQueue()
    for job in (1, 2, 3, None):
        jobs.put(job)
    while (number := jobs.get()) is not None:
        with factory() as session:
            session.add(Book(title=f"job {number}"))
            session.commit()


@right
def long_lived_session(engine: Engine) -> None:
    session = Session(engine)
    for n in range(3):
        session.add(Book(title=f"long {n}"))
        session.commit()
        session.scalars(select(Book)).first()
        session.rollback()
    KEPT.append(session)


KEPT: list[Session] = []  # alive at the end of the program, without a connection


@right
def everything_closed_at_once(engine: Engine) -> None:
    session = Session(engine)
    session.scalars(select(Book)).first()
    close_all_sessions()


# -- threads ------------------------------------------------------------------------------------------


@right
def handed_over_in_sequence(engine: Engine) -> None:
    session = Session(engine)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        one.submit(session.add, Book(title="handed over")).result()
        one.submit(session.flush).result()
        other.submit(session.commit).result()
        assert other.submit(lambda: session.scalars(select(Book)).all()).result()
        one.submit(session.close).result()


@right
def session_per_thread(engine: Engine) -> None:
    sessions = scoped_session(sessionmaker(engine))

    def job(number: int) -> int:
        found = sessions.scalars(select(Book)).all()
        sessions.remove()
        return len(found) + number

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(job, range(8)))


# -- more than one database ---------------------------------------------------------------------------


@right
def two_engines(engine: Engine) -> None:
    other = enforcing(create_engine(str(engine.url).replace("books.db", "log.db")))
    Base.metadata.create_all(other)
    with Session(binds={Author: engine, Book: engine, Log: other}) as session, session.begin():
        session.add_all([Book(title="here"), Log(line="there")])
    with Session(binds={Author: engine, Book: engine, Log: other}) as session:
        assert session.scalars(select(Log)).first()
        assert session.scalars(select(Book)).first()
        session.add(Log(line="dropped"))
        session.flush()
        session.rollback()
    other.dispose()


class Routed(Session):
    """A session that chooses its engine by itself."""

    engines: dict[str, Engine] = {}  # noqa: RUF012

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine:
        return self.engines["only"]


@right
def routed(engine: Engine) -> None:
    Routed.engines["only"] = engine
    with Routed() as session:
        session.add(Book(title="routed"))
        session.commit()
        assert session.scalars(select(Book)).first()


# -- asyncio ------------------------------------------------------------------------------------------


@right
async def async_commit(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        session.add(Book(title="async"))
        await session.commit()


@right
async def async_begin(engine: AsyncEngine) -> None:
    async with async_sessionmaker(engine, expire_on_commit=False).begin() as session:
        book = Book(title="async begin")
        session.add(book)
    assert book.title == "async begin"


@right
async def async_reads(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        author = (await session.scalars(select(Author))).first()
        assert author is not None
        assert await author.awaitable_attrs.books
        assert await session.run_sync(lambda sync: len(sync.scalars(select(Book)).all()))


@right
async def async_stream(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        async for book in await session.stream_scalars(select(Book).limit(5)):
            assert book.title


@right
async def async_rollback(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        session.add(Book(title="never"))
        await session.flush()
        await session.rollback()


@right
async def async_exception(engine: AsyncEngine) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with AsyncSession(engine) as session:
            session.add(Book(title="never"))
            await session.flush()
            raise ZeroDivisionError


@right
async def async_close_by_hand(engine: AsyncEngine) -> None:
    session = AsyncSession(engine)
    try:
        await session.scalars(select(Book))
    finally:
        await session.close()


@right
async def async_savepoint(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, session.begin():
        session.add(Book(title="outer"))
        nested = await session.begin_nested()
        session.add(Book(title="dropped"))
        await session.flush()
        await nested.rollback()


@right
async def async_recipe(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        outer = await connection.begin()
        async with AsyncSession(bind=connection, join_transaction_mode="create_savepoint") as session:
            session.add(Book(title="in a test"))
            await session.commit()
            session.add(Book(title="and again"))
            await session.flush()
        await outer.rollback()


async def get_async_session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A dependency in the style of FastAPI."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session


@right
async def async_dependency(engine: AsyncEngine) -> None:
    provided = contextlib.asynccontextmanager(get_async_session)
    async with provided(engine) as session:
        book = Book(title="of a request")
        session.add(book)
        await session.commit()
    assert book.title == "of a request"


@right
async def async_task_each(engine: AsyncEngine) -> None:
    factory = async_sessionmaker(engine, expire_on_commit=False)

    async def job() -> int:
        async with factory() as session:
            return len((await session.scalars(select(Book))).all())

    assert all(await asyncio.gather(*(job() for _ in range(5))))


@right
async def async_handed_to_a_child(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        session.add(Book(title="handed to a child"))
        await asyncio.create_task(session.flush())
        await asyncio.create_task(session.commit())


@right
async def async_registry(engine: AsyncEngine) -> None:
    sessions = async_scoped_session(async_sessionmaker(engine, expire_on_commit=False), scopefunc=asyncio.current_task)
    sessions.add(Book(title="async registry"))
    await sessions.commit()
    await sessions.remove()


@right
async def async_cancelled(engine: AsyncEngine) -> None:
    flushed = asyncio.Event()

    async def job() -> None:
        async with AsyncSession(engine) as session:
            session.add(Book(title="never"))
            await session.flush()
            flushed.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(job())
    await flushed.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@right
async def async_thread(engine: AsyncEngine) -> None:
    sync = enforcing(create_engine(engine.url.set(drivername="sqlite")))
    await asyncio.to_thread(commits_in_a_thread, sync)
    sync.dispose()


def commits_in_a_thread(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Book(title="in a thread"))


# -- all of it ----------------------------------------------------------------------------------------


async def run_async(engine: AsyncEngine) -> None:
    for case in ASYNC_CASES:
        await case(engine)
    await engine.dispose()


def enforcing(engine: Engine) -> Engine:
    """Let SQLite enforce foreign keys."""
    event.listen(engine, "connect", lambda connection, record: connection.execute("PRAGMA foreign_keys=ON"))
    return engine


def main(folder: Path) -> None:
    """Run every case, on databases in ``folder``."""
    engine = enforcing(create_engine(f"sqlite:///{folder / 'books.db'}"))
    Base.metadata.create_all(engine)
    for case in CASES:
        case(engine)
    async_engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'books.db'}")
    enforcing(async_engine.sync_engine)
    asyncio.run(run_async(async_engine))
    engine.dispose()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    print("done", len(CASES), len(ASYNC_CASES))
