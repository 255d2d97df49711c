"""What the service does with customers."""

from __future__ import annotations

from sqlalchemy import select

from .db import session_scope
from .models import Customer


def find_customer(email: str) -> Customer:
    """The customer with this address."""
    with session_scope() as session:
        return session.scalars(select(Customer).where(Customer.email == email)).one()


def greeting(email: str) -> str:
    """The first line of a letter."""
    customer = find_customer(email)
    return f"200 Dear {customer.name}"  # bug: detached-touch
