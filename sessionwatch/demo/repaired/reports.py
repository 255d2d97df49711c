"""Figures for the back office."""

from __future__ import annotations

from sqlalchemy import func, select

from .db import session_scope
from .models import Order, OrderLine


def open_orders() -> str:
    """How many orders wait to be shipped."""
    with session_scope() as session:
        waiting = session.scalar(select(func.count()).where(Order.status != "shipped"))
    return f"200 {waiting} open"


def units_sold() -> str:
    """How many pieces were ordered so far."""
    with session_scope() as session:
        units = session.scalar(select(func.sum(OrderLine.quantity)))
    return f"200 {units} pieces"
