"""A ticket desk: agents and the tickets that they work on."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    """The desk's tables."""


class Agent(Base):
    """Somebody who works on tickets."""

    __tablename__ = "agents"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))


class Ticket(Base):
    """Something to work on."""

    __tablename__ = "tickets"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50))
    status: Mapped[str] = mapped_column(String(20), default="open")


def prepare(session: Session) -> None:
    """Make the tables and store the first rows."""
    Base.metadata.create_all(session.connection())
    session.add_all([Agent(name="Ada"), Ticket(title="Door"), Ticket(title="Lamp"), Ticket(title="Roof")])
    session.commit()
