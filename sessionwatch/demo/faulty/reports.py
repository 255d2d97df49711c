"""Figures for the back office."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .db import SessionLocal, get_session
from .models import Order, OrderLine


def open_session() -> Session:
    """A session for code outside of a request."""
    for session in get_session():
        return session
    raise RuntimeError("the provider gave no session")


def open_orders() -> str:
    """How many orders wait to be shipped."""
    session = open_session()
    waiting = session.scalar(select(func.count()).where(Order.status != "shipped"))  # bug: use-after-close
    session.close()
    return f"200 {waiting} open"


def units_sold() -> str:
    """How many pieces were ordered so far."""
    session = SessionLocal()  # bug: session-leak
    units = session.scalar(select(func.sum(OrderLine.quantity)))
    return f"200 {units} pieces"
