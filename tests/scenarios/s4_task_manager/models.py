"""Tasks that a runner carries out, and their steps."""

from __future__ import annotations

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """The manager's tables."""


class Task(Base):
    """Something to carry out."""

    __tablename__ = "tasks"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50), unique=True)
    state: Mapped[str] = mapped_column(String(20), default="new")
    steps: Mapped[list[Step]] = relationship(order_by="Step.id")


class Step(Base):
    """A part of a task."""

    __tablename__ = "steps"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(50))
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))
