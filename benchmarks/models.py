"""The tables of the benchmarks, and the rows that are in them before anything is measured."""

from __future__ import annotations

from sqlalchemy import Connection, ForeignKey, String, insert, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

ORDERS = 10_000
WITH_ITEMS = 200  # the first of them have items
ITEMS = 3  # each


class Base(DeclarativeBase):
    """The declarative base of the benchmarks."""


class Order(Base):
    """A row of five columns."""

    __tablename__ = "bench_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(String(50))
    note: Mapped[str | None] = mapped_column(String(200))
    total: Mapped[int]
    weight: Mapped[int]
    items: Mapped[list[Item]] = relationship(back_populates="order")


class Item(Base):
    """A line of an order."""

    __tablename__ = "bench_items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    order_id: Mapped[int | None] = mapped_column(ForeignKey("bench_orders.id"))
    order: Mapped[Order | None] = relationship(back_populates="items")


def order_row(number: int) -> dict[str, object]:
    """The columns of one order, without its key."""
    return {"status": "new", "note": f"note {number}", "total": number, "weight": number % 7}


def seed(connection: Connection, orders: int = ORDERS) -> None:
    """Make the tables and store ``orders`` orders; needs an empty database."""
    Base.metadata.create_all(connection)
    connection.execute(insert(Order), [{"id": n, **order_row(n)} for n in range(1, orders + 1)])
    if connection.dialect.name == "postgresql":  # whose sequence knows nothing of keys that were given
        connection.execute(text("SELECT setval(pg_get_serial_sequence('bench_orders', 'id'), :last)"), {"last": orders})
    with_items = range(1, min(orders, WITH_ITEMS) + 1)
    connection.execute(insert(Item), [{"name": "bolt", "order_id": n} for n in with_items for _ in range(ITEMS)])
