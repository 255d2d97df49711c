"""What the service does with orders."""

from __future__ import annotations

from sqlalchemy import select

from .db import session_scope
from .models import Customer, Order, OrderLine


def create_order(number: str, email: str, product: str) -> str:
    """Take an order for two pieces of one product."""
    with session_scope() as session:
        customer = session.scalars(select(Customer).where(Customer.email == email)).one()
        order = Order(number=number, customer=customer)
        order.lines.append(OrderLine(product=product, quantity=2, price=450))
        session.add(order)
        session.flush()
        return f"201 created {number}"


def find_order(number: str) -> Order:
    """The order with this number."""
    with session_scope() as session:
        return session.scalars(select(Order).where(Order.number == number)).one()


def order_total(number: str) -> str:
    """What the order costs."""
    order = find_order(number)
    total = sum(line.quantity * line.price for line in order.lines)  # bug: detached-access
    return f"200 total {total / 100:.2f}"


def ship_order(number: str) -> str:
    """Note that the order has left the house."""
    order = find_order(number)
    order.status = "shipped"  # bug: detached-write
    return f"200 shipped {number}"
