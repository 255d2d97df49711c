"""A small shop that the tests of the installation share: models, engines, and the mistakes that people make.

``lose``, ``leak``, ``touch``, ``read``, ``change`` and ``reuse`` each make one finding of one rule.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, event, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlalchemy.pool import StaticPool


class Base(DeclarativeBase):
    """The shop's declarative base."""


class Order(Base):
    """What was ordered."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(default="new")
    notes: Mapped[str | None] = mapped_column(deferred=True)
    items: Mapped[list[Item]] = relationship(back_populates="order", cascade="all, delete-orphan")


class Item(Base):
    """One line of an order."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="thing")
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"))
    order: Mapped[Order | None] = relationship(back_populates="items")


@pytest.fixture(autouse=True)
def _our_errors_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """sessionwatch's own errors fail the test. Import this fixture to use it."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Engine]:
    """An engine on a SQLite file with one committed order of two items."""
    engine = file_engine(tmp_path)
    yield engine
    engine.dispose()


def file_engine(folder: Path, name: str = "shop.db") -> Engine:
    """An engine on a file in ``folder``, filled."""
    return fill(create_engine(f"sqlite:///{folder / name}"))


def memory_engine() -> Engine:
    """An engine on one connection in memory, filled."""
    return fill(create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}))


def enforce_foreign_keys(engine: Engine) -> None:
    """Let SQLite enforce foreign keys."""
    event.listen(engine, "connect", lambda connection, record: connection.execute("PRAGMA foreign_keys=ON"))


def fill(engine: Engine) -> Engine:
    """Make the tables and one order of two items, without a session."""
    enforce_foreign_keys(engine)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(Order.__table__.insert(), {"id": 1, "status": "new"})  # type: ignore[attr-defined]
        connection.execute(Item.__table__.insert(), [{"order_id": 1, "name": "a"}, {"order_id": 1, "name": "b"}])  # type: ignore[attr-defined]
    return engine


async def async_file_engine(folder: Path, name: str = "shop.db") -> AsyncEngine:
    """An asyncio engine on a file in ``folder``, filled."""
    file_engine(folder, name).dispose()
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder / name}")
    enforce_foreign_keys(engine.sync_engine)
    return engine


# -- mistakes -----------------------------------------------------------------------------------------


def lose(engine: Engine, session: Session | None = None) -> None:
    """lost-writes"""
    session = session or Session(engine)
    session.add(Order())
    session.flush()
    session.close()


def leak(engine: Engine) -> None:
    """session-leak"""
    session = Session(engine)
    session.scalars(select(Order)).all()
    del session
    gc.collect()


def detached(engine: Engine) -> Order:
    """An order whose session has been closed."""
    with Session(engine) as session:
        return session.scalars(select(Order).where(Order.id == 1)).one()


def touch(engine: Engine) -> str:
    """detached-touch"""
    return detached(engine).status


def read(engine: Engine) -> None:
    """detached-access; the error is swallowed"""
    order = detached(engine)
    with contextlib.suppress(DetachedInstanceError):
        order.items  # noqa: B018


def change(engine: Engine) -> None:
    """detached-write"""
    detached(engine).status = "shipped"


def reuse(engine: Engine) -> None:
    """use-after-close"""
    with Session(engine) as session:
        session.scalars(select(Order)).all()
    session.scalars(select(Order)).all()
    session.close()
