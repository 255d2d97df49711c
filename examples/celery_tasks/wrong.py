"""As right.py, but an error is answered by going on: its session stores nothing any more, and the task fails."""

from celery import Celery
from sqlalchemy import create_engine
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
        with new_session() as session:
            for name in names:
                session.add(Item(name=name))
                try:
                    session.flush()  # an error here has to be rolled back
                except Exception:
                    known.append(name)
            session.commit()
        return known

    return app
