"""Customers, their orders, and what was ordered."""

from __future__ import annotations

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """Base of the models."""


class Customer(Base):
    """Who orders."""

    __tablename__ = "sessionwatch_demo_customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(80), unique=True)
    name: Mapped[str] = mapped_column(String(80))
    orders: Mapped[list[Order]] = relationship(back_populates="customer")


class Order(Base):
    """One order; ``status`` is "new", "packed" or "shipped"."""

    __tablename__ = "sessionwatch_demo_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(String(20), unique=True)
    status: Mapped[str] = mapped_column(String(20), default="new")
    customer_id: Mapped[int] = mapped_column(ForeignKey("sessionwatch_demo_customers.id"))
    customer: Mapped[Customer] = relationship(back_populates="orders")
    lines: Mapped[list[OrderLine]] = relationship(back_populates="order")


class OrderLine(Base):
    """One product of an order; ``price`` is in cents."""

    __tablename__ = "sessionwatch_demo_order_lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("sessionwatch_demo_orders.id"))
    product: Mapped[str] = mapped_column(String(80))
    quantity: Mapped[int]
    price: Mapped[int]
    order: Mapped[Order] = relationship(back_populates="lines")
