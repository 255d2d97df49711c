"""An assistant that works by itself: jobs, and the drives that they serve."""

from __future__ import annotations

from sqlalchemy import ForeignKey, String
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """The assistant's tables."""


class Drive(Base):
    """Why the assistant does something."""

    __tablename__ = "drives"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))


class Job(Base):
    """Something to do."""

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    prompt: Mapped[str] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(20), default="pending")
    attempts: Mapped[int] = mapped_column(default=0)
    plan: Mapped[str | None] = mapped_column(String(200))
    drive_id: Mapped[int] = mapped_column(ForeignKey("drives.id"))
    drive: Mapped[Drive] = relationship()


async def store_first_rows(sessions: async_sessionmaker[AsyncSession]) -> None:
    async with sessions.begin() as session:
        drive = Drive(id=1, kind="curiosity")
        session.add_all([drive, Job(id=1, prompt="Read the news", drive=drive)])
        session.add(Job(id=2, prompt="Sort the mail", drive=drive))
