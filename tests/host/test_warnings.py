"""A warning of SQLAlchemy's names the line that it names without us, whichever replaced function it comes through."""

from __future__ import annotations

import asyncio
import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from sqlalchemy import create_engine, event, select, text
from sqlalchemy import exc as errors
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import (
    Mapped,
    Session,
    configure_mappers,
    mapped_column,
    object_session,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.orm import exc as orm_errors
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

import sessionwatch
from sessionwatch.hooks.table import HOOKS
from sessionwatch.model import MODES, Mode
from tests.host.faults import Host
from tests.models import Base, Book, Shelf, create
from tests.programs import every_use
from tests.programs.shop import Item, Order, _our_errors_raise, async_file_engine  # noqa: F401 (fixtures)

Place = tuple[str, str, int]  # what warned, and the file and the line that the warning names
# Compiled as a part of SQLAlchemy's: what it warns, it warns as SQLAlchemy would.
WARNS = """
def warns(original, what):
    def call(*args, **kwargs):
        warn(what)
        return original(*args, **kwargs)
    return call

def warns_asynchronously(original, what):
    async def call(*args, **kwargs):
        warn(what)
        return await original(*args, **kwargs)
    return call
"""
IN_SQLALCHEMY: dict[str, Any] = {"__name__": "sqlalchemy.probe"}
exec("from sqlalchemy.util import warn\n" + WARNS, IN_SQLALCHEMY)
NOT_CALLED = {"_not_sa_pattern", "Session.no_autoflush"}  # a pattern; a property, which has no function to warn in
WRITTEN_ANEW = {"__get__", "__set__", "__delete__"}  # of attributes, which warn of nothing: not always called by ours


def shelves(folder: Path) -> None:
    """What the other two programs have no use for: collections that are never loaded, mutable values, pools."""
    engine = create_engine(f"sqlite:///{folder / 'shelves.db'}", poolclass=QueuePool, pool_pre_ping=True)
    create(engine, Shelf, Book, Entry)
    with Session(engine) as session, session.begin():
        shelf = Shelf(labels={"a": 1})
        session.add(shelf)
        session.flush()
        shelf.labels["b"] = 2
        book = Book()
        shelf.archive.add(book)
        session.flush()
        shelf.archive.remove(book)
        session.scalars(shelf.archive.select()).all()
        shelf.lent.all()
        session.expire(shelf, ["labels"])
    with Session(engine) as session:
        session.expire_all()
        session.connection().execute(text("select 1 union select 2")).fetchmany(1)
    for registry in (scoped_session(sessionmaker(engine)), scoped_session(sessionmaker(engine), scopefunc=lambda: 1)):
        registry().close()
        registry.remove()
    with engine.begin() as connection:
        connection.execute(Book.__table__.insert().returning(Book.id), [{"shelf_id": 1}, {"shelf_id": 1}])  # type: ignore[attr-defined]
    engine.raw_connection().close()
    engine.dispose()
    engine = create_engine("sqlite://", poolclass=StaticPool)
    engine.connect().close()
    raised(engine)
    engine.dispose()


def raised(engine: Any) -> None:
    """Errors that SQLAlchemy's own code raises only on other databases, or under load."""
    orm_errors.StaleDataError("a row is gone")
    errors.TimeoutError("a pool ran dry")
    errors.MissingGreenlet("no greenlet")
    order = Order(items=[Item(), Item()], status="new")
    del order.status
    order.items.pop()
    order.items.remove(order.items[0])
    with suppress(errors.InvalidRequestError), Session(engine) as session:
        session.refresh(order)


async def in_tasks(folder: Path) -> None:
    engine = await async_file_engine(folder, "tasks.db")
    async with AsyncSession(engine) as session:
        await (await session.stream(select(Order).execution_options(yield_per=2))).fetchmany(1)
        await session.reset()
        await session.invalidate()
    async with async_sessionmaker(engine).begin() as session:
        session.add(Order())
    session = AsyncSession(engine)
    await session.close()
    async with engine.connect() as connection:
        stream = await connection.stream(text("select 1 union select 2"))
        while await stream.fetchone():
            pass
    await engine.dispose()


def program(folder: Path) -> None:
    """Uses of everything that is replaced, right and wrong."""
    folder.mkdir()
    list(every_use.outcomes(tuple(use for use in every_use.RIGHT + every_use.WRONG if use.__name__ != "stalls_a_loop")))
    Host().run()
    shelves(folder)
    asyncio.run(in_tasks(folder))


def probed() -> Iterator[tuple[Any, str, Any]]:
    """Each function that a hook replaces: owner, attribute, and a function in its place that warns first."""
    for hook in HOOKS:
        owner, attribute = hook.place.owner(), hook.place.spelled()[2]
        original = vars(owner).get(attribute, getattr(owner, attribute, None)) if owner is not None else None
        function = getattr(original, "__func__", original)  # of a class method
        if isinstance(function, FunctionType):
            made = IN_SQLALCHEMY["warns_asynchronously" if function.__code__.co_flags & 0x80 else "warns"]
            warning = functools.wraps(function)(made(function, f"probe: {hook.place}"))
            yield owner, attribute, classmethod(warning) if function is not original else warning


@contextmanager
def named() -> Iterator[set[Place]]:
    """What warns in the block, each with the place that its warning names."""
    places: set[Place] = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield places
    places.update(
        (str(one.message), one.filename, one.lineno) for one in caught if str(one.message).startswith("probe: ")
    )


def test_a_warning_through_any_replaced_function_names_the_line_that_it_names_bare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each replaced function warns in turn, at each of its calls; no place differs, and none of them is ours."""
    configure_mappers()  # whose warnings are tagged, once
    for owner, attribute, warning in list(probed()):
        monkeypatch.setattr(owner, attribute, warning)
    with named() as bare:
        program(tmp_path / "bare")
    rules: dict[str, Any] = {"detached-touch": "log", "untracked-mutation": "log"}  # else in strict mode only
    with sessionwatch.watching("log", log=False, rules=rules) as watch, named() as watched:
        program(tmp_path / "watched")
    assert watched <= bare
    assert {what.rpartition(".")[2] for what, _, _ in bare - watched} <= WRITTEN_ANEW
    assert watch.status()["internal_errors"] == {}
    never = {str(hook.place) for hook in HOOKS} - {what.removeprefix("probe: ") for what, _, _ in bare}
    assert never == NOT_CALLED


class Entry(Base):
    """What a listener adds while a flush runs."""

    __tablename__ = "entries"

    id: Mapped[int] = mapped_column(primary_key=True)


def in_a_flush(session: Session) -> None:
    @event.listens_for(session, "before_flush")
    def flushing(session: Session, *_: Any) -> None:
        session.add(Shelf(labels={}))

    @event.listens_for(Book, "after_insert")
    def inserted(mapper: Any, connection: Any, book: Book) -> None:
        held = object_session(book)
        assert held is not None
        held.add(Entry())
        held.add_all([Entry()])
        held.merge(Entry(id=1))

    try:
        session.add(Book())
        session.flush()
    finally:
        event.remove(Book, "after_insert", inserted)


def one_of_many(session: Session) -> None:
    """A relationship to one that finds two."""
    session.add(Shelf(id=7, labels={}))
    session.add_all([Book(shelf_id=7), Book(shelf_id=7)])
    session.flush()
    session.get_one(Shelf, 7).one  # noqa: B018


def a_product(session: Session) -> None:
    session.execute(select(Shelf.id, Book.id))
    session.connection().execute(select(Shelf.id, Entry.id))


def deleted_twice(session: Session) -> None:
    book = Book()
    session.add(book)
    session.flush()
    session.execute(text("delete from books"))
    session.delete(book)
    session.flush()


def old_names(session: Session) -> None:
    session.query(Shelf).get(1)


def a_null_key(session: Session) -> None:
    session.get(Shelf, (None,))
    session.execute(select(Shelf).where(Shelf.id.in_(select(Book.shelf_id).subquery())))


REAL: dict[Callable[[Session], None], int] = {
    in_a_flush: 3, one_of_many: 1, a_product: 2, deleted_twice: 1, old_names: 1, a_null_key: 2
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("use", REAL, ids=lambda use: use.__name__)
def test_a_warning_of_sqlalchemys_own_names_the_users_line(
    use: Callable[[Session], None], mode: Mode, tmp_path: Path
) -> None:
    """What SQLAlchemy warns of below a replaced function: the same texts at the same lines, all of this file."""
    seen = []
    for watching in (False, True):
        engine = create_engine(f"sqlite:///{tmp_path / f'{watching}.db'}", poolclass=NullPool)
        create(engine, Shelf, Book, Entry)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with sessionwatch.watching(mode, log=False) if watching else nullcontext(), Session(engine) as session:
                use(session)
                session.rollback()
        seen.append([(one.category.__name__, one.filename, one.lineno) for one in caught])
    assert seen[1] == seen[0]
    assert [filename for _, filename, _ in seen[0]] == [__file__] * REAL[use]


def test_a_filter_of_the_users_own_module_fits() -> None:
    """What Python does by a warning's module goes by the user's."""
    engine = create_engine("sqlite://")
    create(engine, Shelf, Book, Entry)
    with sessionwatch.watching(log=False), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", module=__name__.replace(".", r"\."))
        with Session(engine) as session:
            in_a_flush(session)
            session.rollback()
    assert caught == []
