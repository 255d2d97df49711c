"""Small models of an order book, for the rules' tests.

``create(engine)``, ``create_async(engine)``  the tables
``seed(engine)``, ``seed_async(engine)``      one customer, one order with two items and a tag, one employee
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column, Engine, ForeignKey, String, Table
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from tests.models import Base
from tests.models import create as create_tables

order_tags = Table(
    "order_tags",
    Base.metadata,
    Column("order_id", ForeignKey("orders.id"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id"), primary_key=True),
)


class Customer(Base):
    """Somebody who orders."""

    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    orders: Mapped[list[Order]] = relationship(back_populates="customer")


class Order(Base):
    """An order: a plain, a deferred and a mutable column, and each kind of relationship."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(String(50), default="new")
    notes: Mapped[str | None] = mapped_column(String(200), deferred=True)
    extra: Mapped[dict[str, Any] | None] = mapped_column(MutableDict.as_mutable(JSON()))
    customer_id: Mapped[int | None] = mapped_column(ForeignKey("customers.id"))
    customer: Mapped[Customer | None] = relationship(back_populates="orders")
    items: Mapped[list[Item]] = relationship(back_populates="order")
    tags: Mapped[list[Tag]] = relationship(secondary=order_tags)


class Item(Base):
    """A line of an order."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"))
    order: Mapped[Order | None] = relationship(back_populates="items")


class Tag(Base):
    """A label of orders."""

    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))


class Profile(Base):
    """Somebody's options, in a column that does not notice changes in place. No row is stored by ``seed``."""

    __tablename__ = "profiles"

    id: Mapped[int] = mapped_column(primary_key=True)
    options: Mapped[dict[str, Any]] = mapped_column(JSON())


class Person(Base):
    """The parent of a joined inheritance."""

    __tablename__ = "people"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(50))


class Employee(Person):
    """The child of a joined inheritance: ``salary`` is loaded later when a query asks for people."""

    __tablename__ = "employees"
    __mapper_args__ = {"polymorphic_identity": "employee"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
    salary: Mapped[int]


_ALL = (Customer, Order, Item, Tag, order_tags, Profile, Employee)


def create(engine: Engine) -> None:
    """Make the tables."""
    create_tables(engine, *_ALL)


async def create_async(engine: AsyncEngine) -> None:
    """Make the tables."""
    async with engine.begin() as connection:
        await connection.run_sync(create_tables, *_ALL)


def seed(engine: Engine) -> None:
    """Make the tables and store one row or two of each class; every first key is 1."""
    create(engine)
    with Session(engine) as session:
        session.add_all(rows())
        session.commit()


async def seed_async(engine: AsyncEngine) -> None:
    """Make the tables and store one row or two of each class; every first key is 1."""
    await create_async(engine)
    async with engine.begin() as connection:
        await connection.run_sync(_store)


def rows() -> list[Base]:
    """A customer with one order of two items and a tag, and an employee, all transient."""
    order = Order(
        status="new",
        notes="ring twice",
        extra={"gift": True},
        items=[Item(name="bolt"), Item(name="nut")],
        tags=[Tag(name="urgent")],
    )
    return [Customer(name="Ada", orders=[order]), Employee(name="Grace", salary=100)]


def _store(connection: Any) -> None:
    with Session(connection, join_transaction_mode="create_savepoint") as session:
        session.add_all(rows())
        session.commit()
