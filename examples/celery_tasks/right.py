"""Celery: a session per task, a savepoint around what may fail."""

from celery import Celery
from sqlalchemy import create_engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker


class Base(DeclarativeBase): ...


class Item(Base):
    __tablename__ = "items"
    name: Mapped[str] = mapped_column(primary_key=True)


def create_app(url: str) -> Celery:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    new_session = sessionmaker(engine)
    app = Celery("shop", set_as_current=False)

    @app.task(name="shop.load", shared=False)
    def load(names: list[str]) -> list[str]:
        """Store new items; the names of those that were there already."""
        known = []
        with new_session.begin() as session:
            for name in names:
                try:
                    with session.begin_nested():
                        session.add(Item(name=name))
                except IntegrityError:
                    known.append(name)
        return known

    return app
