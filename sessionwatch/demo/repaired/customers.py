"""What the service does with customers."""

from __future__ import annotations

from sqlalchemy import select

from .db import session_scope
from .models import Customer


def find_name(email: str) -> str:
    """The name of the customer with this address."""
    with session_scope() as session:
        return session.scalars(select(Customer.name).where(Customer.email == email)).one()


def greeting(email: str) -> str:
    """The first line of a letter."""
    name = find_name(email)
    return f"200 Dear {name}"
