"""A Celery task with a session and a transaction of its own, as SQLAlchemy's session basics frame them."""

from __future__ import annotations

from celery import Celery
from sqlalchemy import URL, Engine, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker


class Base(DeclarativeBase):
    """The declarative base of the worker."""


class Harvest(Base):
    __tablename__ = "harvests"

    id: Mapped[int] = mapped_column(primary_key=True)
    crop: Mapped[str]
    kilograms: Mapped[int]


def make(url: URL) -> tuple[Celery, Engine]:
    """The application, whose tasks run where they are called, and the engine that it uses."""
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    new_session = sessionmaker(engine)
    app = Celery("garden", set_as_current=False)
    app.conf.update(task_always_eager=True, task_eager_propagates=True)

    @app.task(name="garden.record", shared=False)
    def record(crop: str, kilograms: int) -> int:
        with new_session.begin() as session:
            harvest = Harvest(crop=crop, kilograms=kilograms)
            session.add(harvest)
            session.flush()
            return harvest.id

    @app.task(name="garden.total", shared=False)
    def total(crop: str) -> int:
        with new_session() as session:
            return sum(session.scalars(select(Harvest.kilograms).where(Harvest.crop == crop)))

    return app, engine
