"""A planning service: users, their projects, and the notes on them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship


class Base(DeclarativeBase):
    """The service's tables."""


class User(Base):
    """Somebody who plans."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    last_seen: Mapped[datetime | None]


class Project(Base):
    """Something planned."""

    __tablename__ = "projects"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50))
    insights: Mapped[str | None] = mapped_column(String(200))
    actions: Mapped[str | None] = mapped_column(String(200))
    decisions: Mapped[str | None] = mapped_column(String(200))
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    owner: Mapped[User] = relationship()
    notes: Mapped[list[Note]] = relationship(back_populates="project", order_by="Note.id")


class Note(Base):
    """What somebody wrote on a project."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(200))
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    project: Mapped[Project] = relationship(back_populates="notes")


def store_first_rows(session: Session) -> None:
    ada = User(name="ada")
    project = Project(title="Bridge", insights="It is long", actions="Measure", decisions="Of steel", owner=ada)
    session.add_all([ada, project])
    session.commit()
